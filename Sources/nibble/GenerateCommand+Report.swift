import NibbleCompute
import NibbleCore
import NibbleModels
import NibbleQuant

extension GenerateCommand {
  /// Prints the results; the speed goes to standard error.
  func report(_ results: TextGenerator.Results, _ prompts: [Prompt], isStreaming: Bool) throws {
    if common.json { return try StandardOutput.print(document(results)) }
    for (row, one) in results.texts.enumerated() {
      if results.texts.count > 1 { try StandardOutput.write((row == 0 ? "" : "\n") + heading(prompts[row], row) + "\n") }
      if !isStreaming { try StandardOutput.write(one.text) }
      try StandardOutput.write("\n")
    }
    try StandardOutput.flush()
    warnOfFullContexts(results)
    guard !common.quiet else { return }
    write(Self.speed(results.timing) + "\n", to: 2)
    if common.verbose {
      write("peak memory \(byteText(ResourceUse.now.peakBytes)); kernels \(KernelChoice.current.summary)\n", to: 2)
    }
  }

  /// `prompt: 13 tokens, 412.5 tokens/s; generation: 47 tokens, 89.1 tokens/s`
  static func speed(_ timing: Generator.Timing) -> String {
    func part(_ label: String, _ count: Int, _ seconds: Double) -> String {
      "\(label): \(count) tokens" + (count > 0 && seconds > 0 ? ", \(decimal(Double(count) / seconds, 1)) tokens/s" : "")
    }
    return part("prompt", timing.promptTokens, timing.promptSeconds) + "; "
      + part("generation", timing.decodedTokens, timing.decodeSeconds)
  }

  /// Warns of results that stopped because the context was full.
  func warnOfFullContexts(_ results: TextGenerator.Results) {
    let full = results.texts.indices.filter { results.texts[$0].reason == .context }
    guard let first = full.first else { return }
    let length = results.texts[first].promptTokens + results.texts[first].ids.count
    let which = results.texts.count == 1 ? "" : " of \(full.count == 1 ? "row \(first + 1)" : "\(full.count) rows")"
    common.warn([Warning(.data, "generation\(which) stopped because the context of \(length) tokens is full")])
  }

  /// `==> 2 [e2e]: Once upon a time <==`, as `tail` separates files.
  private func heading(_ prompt: Prompt, _ row: Int) -> String {
    let names = prompt.adapters.map(\.adapter.name).joined(separator: ",")
    let text = oneLine(prompt.text)
    let start = text.count > 60 ? text.prefix(59) + "…" : text[...]
    return "==> \(row + 1)\(names.isEmpty ? "" : " [\(oneLine(names))]")\(start.isEmpty ? "" : ": \(start)") <=="
  }

  private func document(_ results: TextGenerator.Results) -> JSON {
    let texts = results.texts.map { one -> JSON in
      [
        "text": JSON(one.text), "ids": JSON(one.ids), "prompt_tokens": JSON(one.promptTokens),
        "new_tokens": JSON(one.ids.count),
        "reason": JSON(one.reason.rawValue), "adapters": JSON(one.adapters), "score": one.score.map { JSON($0) } ?? .null,
      ]
    }
    var members = prompts == nil ? texts[0].members ?? [] : [(key: "results", value: JSON.array(texts))]
    members += [
      ("prompt_seconds", JSON(results.timing.promptSeconds)), ("decode_seconds", JSON(results.timing.decodeSeconds)),
      ("peak_memory", JSON(ResourceUse.now.peakBytes)), ("anonymous_memory", JSON(ResourceUse.anonymousBytes)),
    ]
    return JSON.object(members)
  }
}

import ArgumentParser
import Glibc
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleTemplates
import NibbleTokenizers

struct ShipCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ship",
    abstract: "Write what each program loads of a model, with a passport: format, size, divergence from the original, what was refused and why.",
    discussion: """
      Programs: vllm (compressed-tensors), ollama (GGUF and a Modelfile), llama.cpp (GGUF), mlx, bnb. Adapters are merged first. Each is \
      made by one run of 'nibble quantize', which the passport repeats; codes are chosen with --calibration, or with a text the model writes \
      itself, which takes minutes. What a program cannot hold is refused by itself; the others are \
      made, and the exit code is that of the refusal. With --data, every file is read again and compared with the original.
      """)

  @Argument(help: "The model: a Hugging Face folder, an .nbl file.") var model: String
  @Option(name: .customLong("adapter"), parsing: .singleValue, help: ArgumentHelp("Merge an adapter first; may be repeated.", valueName: "DIR[:WEIGHT]"))
  var adapters: [String] = []
  @Option(name: .customLong("for"), help: ArgumentHelp("The programs, with commas between (default: all).", valueName: "PROGRAMS")) var programs: String?
  @Option(name: .shortAndLong, help: "The folder to write: one folder a program, and passport.md, passport.json.") var output: String
  @Flag(help: "Replace what was shipped there before.") var force = false
  @Option(help: ArgumentHelp("A text to compare on: a text file, JSON Lines.", valueName: "FILE")) var data: String?
  @Option(help: "Tokens per window of that text.") var context = 512
  @Option(parsing: .singleValue, help: ArgumentHelp("A text to choose codes with, where the format has codes to choose; may be repeated.", valueName: "FILE"))
  var calibration: [String] = []
  @Option(help: "Tokens of it to take.") var calibrationTokens: Int?
  @Option(parsing: .singleValue, help: ArgumentHelp("Leave the tensors whose name matches in 16 bits; may be repeated.", valueName: "REGEX"))
  var keep: [String] = []
  @Option(help: "The type of GGUF files (default: q4_k_m; q8_0 of a packed model).") var ggufType: String?
  @OptionGroup var common: CommonOptions

  private var folder: String { output.withoutTrailingSlashes }

  func run() throws {
    let targets = try programs.map { try ShipTarget.named($0) } ?? ShipTarget.all
    let source = try Checkpoint.open(model)
    _ = try adapters.isEmpty ? [] : WeightedAdapters.open(adapters)
    for path in [data].compactMap({ $0 }) + calibration { _ = try InputFile(path) }
    let isNew = PathKind(folder) == .nothing
    guard isNew || force && PathKind(folder) == .folder else {
      throw NibbleError.usage(force ? "\(path: folder) is no folder" : "\(path: folder) exists; \(.force) replaces what was shipped there")
    }
    if isNew, mkdir(folder, 0o777) != 0 { throw NibbleError.cannotWrite("\(path: folder): \(errorText(errno))") }
    // One of an earlier run would speak of files that this one replaces.
    for name in ["passport.md", "passport.json"] { unlink(folder + "/" + name) }
    do {
      let passport = try ship(targets, source)
      let stream = passport.json
      try TextFile.write(passport.markdown, to: folder + "/passport.md", force: true)
      try TextFile.write(String(decoding: stream.fileBytes, as: UTF8.self), to: folder + "/passport.json", force: true)
      if common.json { try StandardOutput.print(stream) } else { try StandardOutput.write(passport.markdown) }
      guard let first = passport.entries.first(where: { $0.refusal != nil }) else { return }
      try StandardOutput.flush()
      throw NibbleError(
        NibbleError.Kind(rawValue: first.code) ?? .failed,
        "\(path: folder): not made for \(passport.entries.filter { $0.refusal != nil }.map(\.target.name).joined(separator: ", ")); the passport says why")
    } catch {
      if isNew { rmdir(folder) }
      throw error
    }
  }

  private func ship(_ targets: [ShipTarget], _ source: Checkpoint) throws -> Passport {
    var from = model
    let merged = folder + "/.merged" + (source.packed.isEmpty ? "" : ".nbl")
    defer { Self.remove(merged) }
    if !adapters.isEmpty {
      say("merging \(adapters.map(oneLine).joined(separator: ", "))")
      let words = ["merge", "--base", model] + adapters.flatMap { ["--adapter", $0] } + ["-o", merged, "--force", "-q"]
      let done = try OwnProgram(words + threads)
      guard done.code == 0 else {
        throw NibbleError(NibbleError.Kind(rawValue: done.code) ?? .failed, "\(path: model): \(done.reason)")
      }
      from = merged
    }
    var passport = Passport(model: model, adapters: adapters, data: data, entries: [])
    for target in targets {
      try Interrupt.check()
      say(target.name)
      passport.entries.append(try make(target, from, source))
    }
    return passport
  }

  private func make(_ target: ShipTarget, _ from: String, _ source: Checkpoint) throws -> Passport.Entry {
    let place = folder + "/" + target.name, path = target.file.isEmpty ? place : place + "/" + target.file
    var words = target.words(!source.packed.isEmpty)
    if let ggufType, let at = words.firstIndex(of: "--gguf-type") { words[at + 1] = ggufType }
    words += keep.flatMap { ["--keep", $0] }
    if !words.contains("--gguf-type") {
      words += calibration.flatMap { ["--calibration", $0] }
      if !calibration.isEmpty, let calibrationTokens { words += ["--calibration-tokens", String(calibrationTokens)] }
    }
    let typed = ["nibble", "quantize", adapters.isEmpty ? model : "MERGED", "-o", target.name + (target.file.isEmpty ? "" : "/" + target.file)] + words
    var entry = Passport.Entry(target: target, command: typed.map(oneLine).joined(separator: " "))
    if !target.file.isEmpty, PathKind(place) == .nothing, mkdir(place, 0o777) != 0 {
      throw NibbleError.cannotWrite("\(path: place): \(errorText(errno))")
    }
    let done = try OwnProgram(["quantize", from, "-o", path, "--force", "--json"] + words + threads)
    guard done.code == 0, let report = try? JSON.parse(Array(done.output.utf8)) else {
      (entry.refusal, entry.code) = (done.reason, done.code == 0 ? 1 : done.code)
      if !target.file.isEmpty { rmdir(place) }
      return entry
    }
    entry.report = report
    entry.warnings = report["warnings"]?.array?.compactMap { $0.string ?? $0["text"]?.string } ?? []
    if target.hasModelfile { entry.warnings += try writeModelfile(place, source) }
    if let data {
      let compared = ["evaluate", "--base", path, "--data", data, "--context", String(context), "--compare-to", model]
        + adapters.flatMap { ["--compare-adapter", $0] }
      let found = try OwnProgram(compared + ["--json", "-q"] + threads)
      if found.code == 0, let comparison = try? JSON.parse(Array(found.output.utf8)) {
        entry.comparison = comparison
      } else {
        entry.warnings.append("not compared: \(found.reason)")
      }
    }
    entry.bytes = Self.bytes(of: place)
    return entry
  }

  /// - Returns: what there is to know of it
  private func writeModelfile(_ place: String, _ source: Checkpoint) throws -> [String] {
    let files = try source.contents(ofSmallFiles: ChatTemplates.fileNames)
    let templates = try? ChatTemplates(files: files, place: model)
    let tokenizer = try? Tokenizer(files: source.contents(ofSmallFiles: Tokenizer.fileNames), place: model)
    let mark = (try? tokenizer?.encode("").ids)?.first.flatMap { tokenizer?.token($0) }
    let found = templates.flatMap { OllamaTemplate($0, mark: mark) }
    try TextFile.write(OllamaTemplate.modelfile(found), to: place + "/Modelfile", force: true)
    guard found == nil else { return [] }
    return [
      templates == nil
        ? "the model has no chat template, and the Modelfile none"
        : "the chat template is more than beginnings and ends of messages; the Modelfile has none, and Ollama goes by the file's own"
    ]
  }

  private var threads: [String] { common.threads.map { ["--threads", String($0)] } ?? [] }

  private func say(_ text: String) { if !common.quiet, !common.json { write("nibble: \(text)\n", to: 2) } }

  private static func bytes(of path: String) -> Int {
    ((try? namesInFolder(path)) ?? []).reduce(0) { sum, name in
      var status = stat()
      return sum + (lstat(path + "/" + name, &status) == 0 && status.st_mode & S_IFMT == S_IFREG ? Int(status.st_size) : 0)
    }
  }

  private static func remove(_ path: String) {
    for name in (try? namesInFolder(path)) ?? [] { unlink(path + "/" + name) }
    rmdir(path)
    unlink(path)
  }
}

import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats

struct AdapterCheckCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Say what programs that serve adapters will refuse of one, or compute otherwise, and what to do.",
    discussion: """
      Without --for, all of them: vllm, lorax, llama.cpp, mlx. "wrong" is what a program would compute otherwise without saying so. The exit \
      code is 5 where a program refuses the adapter as it is or gets it wrong; another layout and a setting are no obstacle.
      """)

  @Argument(help: "The adapter: PEFT's folder.") var path: String
  @Option(name: .customLong("for"), help: ArgumentHelp("The programs, with commas between.", valueName: "PROGRAMS")) var programs: String?
  @Option(name: [.long, .customShort("m")], help: "The checkpoint it is for.") var base: String?
  @OptionGroup var common: CommonOptions

  func run() throws {
    let servers = try Self.servers(programs)
    let file = try AdapterFile.open(path)
    let checkpoint = try base.map { try Checkpoint.open($0) }
    common.warn(file.warnings)
    let found = try servers.map { ($0.name, try $0.findings(file, base: checkpoint)) }
    if common.json { try StandardOutput.print(document(found)) } else { try print(found) }
    let obstacles = found.filter { $0.1.contains { [.refused, .wrong].contains($0.kind) } }.map(\.0)
    guard obstacles.isEmpty else {
      try StandardOutput.flush()
      throw NibbleError(.adapterMismatch, "\(path: path): not for \(obstacles.joined(separator: ", ")) as it is")
    }
  }

  static func servers(_ text: String?) throws -> [AdapterServer] {
    guard let text else { return AdapterServer.all }
    return try text.split(separator: ",", omittingEmptySubsequences: false).map { name in
      guard let server = AdapterServer.all.first(where: { $0.name == name }) else {
        throw NibbleError.usage("--for \(quoted(String(name))): the programs are \(AdapterServer.all.map(\.name).joined(separator: ", "))")
      }
      return server
    }
  }

  private func print(_ found: [(String, [AdapterServer.Finding])]) throws {
    for (name, findings) in found {
      if findings.isEmpty { try StandardOutput.print("\(name): loads it as it is") }
      for finding in findings {
        let remedy = command(finding.remedy).map { "; \($0)" } ?? ""
        try StandardOutput.print("\(name): \(finding.kind.rawValue): \(oneLine(finding.text.withFlags))\(remedy)")
      }
    }
  }

  /// What can be done, as a command.
  private func command(_ remedy: AdapterServer.Remedy) -> String? {
    let adapter = shellWord(path), model = base.map(shellWord) ?? "BASE"
    switch remedy {
    case .convert(.gguf): return "nibble adapter convert \(adapter) --base \(model) -o OUT.gguf"
    case .convert(let layout): return "nibble adapter convert \(adapter) --to \(layout.rawValue) -o OUT"
    case .resize(let rank): return "nibble adapter resize \(adapter) --rank \(rank) -o OUT"
    case .merge: return "nibble merge --base \(model) --adapter \(adapter) -o OUT"
    case .start(let option, let value): return "start it with --\(option) \(value)"
    case .none: return nil
    }
  }

  private func shellWord(_ word: String) -> String {
    let plain = word.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "/._-+,=@".contains($0)) }
    return plain ? word : "'" + oneLine(word).replacing("'", with: "'\\''") + "'"
  }

  private func document(_ found: [(String, [AdapterServer.Finding])]) -> JSON {
    .object(
      [("adapter", JSON(path))]
        + found.map { name, findings in
          (
            name,
            .array(
              findings.map {
                ["kind": JSON($0.kind.rawValue), "text": JSON($0.text.withFlags), "remedy": command($0.remedy).map { JSON($0) } ?? .null]
              })
          )
        })
  }
}

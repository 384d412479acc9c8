import ArgumentParser
import Glibc
import NibbleCompute
import NibbleCore
import NibbleFormats

struct Nibble: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "nibble",
    abstract: "Packs model checkpoints to 4 bits and works on the packed files.",
    discussion: """
      MODEL, IN and PATH are a Hugging Face folder, a .safetensors file, an .nbl block file, a .gguf file, a folder with a \
      bitsandbytes checkpoint, or ORG/NAME[@REVISION] in the local Hugging Face cache.

      Exit codes: 0 done; 1 failed; 2 usage; 3 bad input; 4 a checksum or an index does not hold; 5 the adapter \
      does not fit the base; 6 a quality gate was missed; 7 cannot write or no space; 130 Ctrl-C; 143 terminated.
      """,
    version: "nibble " + nibbleVersion,
    subcommands: [ManualPagesCommand.self],
    groupedSubcommands: [
      CommandGroup(
        name: "Convert",
        subcommands: [QuantizeCommand.self, CalibrateCommand.self, DequantizeCommand.self, ConvertCommand.self, ShipCommand.self, PlanCommand.self]),
      CommandGroup(
        name: "Check", subcommands: [InspectCommand.self, VerifyCommand.self, DiffCommand.self, WhyCommand.self, HashCommand.self]),
      CommandGroup(
        name: "Run", subcommands: [GenerateCommand.self, EvaluateCommand.self, TokenizeCommand.self, ForwardCommand.self]),
      CommandGroup(name: "Train", subcommands: [FinetuneCommand.self, SweepCommand.self, ReportCommand.self]),
      CommandGroup(
        name: "Adapters",
        subcommands: [MergeCommand.self, UnmergeCommand.self, PatchCommand.self, SwapCommand.self, AdapterCommand.self]),
      CommandGroup(name: "Help", subcommands: [DoctorCommand.self, ExamplesCommand.self]),
    ])

  /// Runs the command line `arguments` and returns the exit code.
  static func runMapped(_ arguments: [String]) -> Int32 {
    var words = arguments
    do {
      words = try Arguments.normalized(arguments)
      guard let verb = words.first else {
        try StandardOutput.print(help("", helpMessage()))
        try StandardOutput.flush()
        throw NibbleError.usage("a verb is missing")
      }
      if !verb.hasPrefix("-"), verb != "help", subcommand([verb]) == nil { throw unknown(verb) }
      if Arguments.asksForDetails(words) {
        try StandardOutput.print(configuration.version)
        try Summary.printRows(ComputeSetting.rows())
        try StandardOutput.flush()
        return 0
      }
      var command = try parse(words)
      try command.run()
      try StandardOutput.flush()
      return 0
    } catch let error as NibbleError {
      return report(error)
    } catch is StandardOutput.Closed {
      return 0
    } catch let code as ExitCode {
      return code.rawValue
    } catch {
      return reportParsing(error, words)
    }
  }

  /// The command that `words`, verb first, stand for.
  ///
  /// - Throws: what the parser throws, or `.usage` for what the verb does not have
  static func parse(_ words: [String]) throws -> any ParsableCommand {
    do { return try parseAsRoot(words) } catch where exitCode(for: error) != .success {
      guard let (verb, command) = subcommand(words), let options = VerbOptions(verb, command) else { throw error }
      let count = verb.split(separator: " ").count
      let resolved = words[..<count] + (try options.resolved(Array(words[count...])))
      guard Array(resolved) != words else { throw error }
      Arguments.words = Array(resolved)
      return try parseAsRoot(Array(resolved))
    }
  }

  /// The command whose verb `words` begin with, and the verb's own name.
  static func subcommand(_ words: [String]) -> (verb: String, command: any ParsableCommand.Type)? {
    var found: (verb: String, command: any ParsableCommand.Type)?
    for word in words {
      let among = (found?.command ?? Self.self).configuration.subcommands
      let next = among.first { $0.configuration.commandName == word || $0.configuration.aliases.contains(word) }
      guard let next, let name = next.configuration.commandName else { break }
      found = (found.map { $0.verb + " " + name } ?? name, next)
    }
    return found
  }

  private static func unknown(_ verb: String) -> NibbleError {
    let commands = configuration.subcommands.map { $0.configuration }
    let names = commands.filter(\.shouldDisplay).compactMap(\.commandName)
    let meant = Suggestion.of(verb, among: names + commands.flatMap(\.aliases))
    return NibbleError.usage(
      "unknown verb \(quoted(verb)); " + (meant.map { "did you mean \($0)?" } ?? "the verbs are \(names.joined(separator: ", "))"))
  }

  /// The parser's help with examples at its end.
  private static func help(_ verb: String, _ text: String) -> String {
    // "CONVERT SUBCOMMANDS:" is a heading of a group.
    var text = text.replacing(" SUBCOMMANDS:\n", with: ":\n")
    if let files = VerbOptions.synopsis(verb), let end = text.firstRange(of: "\n\nOPTIONS:") {
      text.replaceSubrange(end.lowerBound..<end.lowerBound, with: "\n       \(files)")
    }
    while text.hasSuffix("\n") { text.removeLast() }
    return text + "\n" + Examples.help(verb)
  }

  private static func report(_ error: NibbleError) -> Int32 {
    Progress.clear()
    write("nibble: error: \(error.line)\n", to: STDERR_FILENO)
    return error.kind.rawValue
  }

  /// Help and version are no errors; everything else the parser says is a usage error.
  private static func reportParsing(_ error: any Error, _ words: [String]) -> Int32 {
    if exitCode(for: error) == .success {
      do {
        let text = fullMessage(for: error)
        let verb = subcommand(words.first == "help" ? Array(words.dropFirst()) : words)?.verb ?? ""
        let isScript = words.contains { $0.hasPrefix("--generate-completion-script") }
        try StandardOutput.print(text.hasPrefix("OVERVIEW:") ? help(verb, text) : isScript ? Completions.withFiles(text) : text)
        try StandardOutput.flush()
      } catch let error as NibbleError { return report(error) } catch {}
      return 0
    }
    let text = message(for: error)
    let line = text.split(separator: "\n").map { String($0) }.joined(separator: " ")
    return report(NibbleError.usage("\(line)"))
  }
}

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
      MODEL, IN and PATH are a Hugging Face folder, a .safetensors file, an .nbl block file, a folder with a \
      bitsandbytes checkpoint, or ORG/NAME[@REVISION] in the local Hugging Face cache.

      Exit codes: 0 done; 1 failed; 2 usage; 3 bad input; 4 a checksum or an index does not hold; 5 the adapter \
      does not fit the base; 6 a quality gate was missed; 7 cannot write or no space; 130 Ctrl-C; 143 terminated.
      """,
    version: "nibble " + nibbleVersion,
    subcommands: [
      InspectCommand.self, PlanCommand.self, QuantizeCommand.self, DequantizeCommand.self, ConvertCommand.self,
      VerifyCommand.self, DiffCommand.self, HashCommand.self, TokenizeCommand.self, ForwardCommand.self, GenerateCommand.self,
      EvaluateCommand.self, AdapterCommand.self, FinetuneCommand.self, MergeCommand.self, UnmergeCommand.self,
      PatchCommand.self, SwapCommand.self,
    ])

  private static var verbs: [String] { configuration.subcommands.compactMap { $0.configuration.commandName } }

  private static var aliases: [String] { configuration.subcommands.flatMap { $0.configuration.aliases } }

  /// Runs the command line `arguments` and returns the exit code.
  static func runMapped(_ arguments: [String]) -> Int32 {
    do {
      let arguments = try Arguments.normalized(arguments)
      guard !arguments.isEmpty else {
        throw NibbleError.usage("a verb is missing; 'nibble --help' lists them")
      }
      if let verb = arguments.first, !verb.hasPrefix("-"), verb != "help", !verbs.contains(verb), !aliases.contains(verb) {
        throw NibbleError.usage("unknown verb \(quoted(verb)); the verbs are \(verbs.joined(separator: ", "))")
      }
      if Arguments.asksForDetails(arguments) {
        try StandardOutput.print(configuration.version)
        try Summary.printRows(ComputeSetting.rows())
        try StandardOutput.flush()
        return 0
      }
      var command = try parseAsRoot(arguments)
      try command.run()
      try StandardOutput.flush()
      return 0
    } catch let error as NibbleError {
      return report(error)
    } catch is StandardOutput.Closed {
      return 0
    } catch {
      return reportParsing(error)
    }
  }

  private static func report(_ error: NibbleError) -> Int32 {
    Progress.clear()
    write("nibble: error: \(error.line)\n", to: STDERR_FILENO)
    return error.kind.rawValue
  }

  /// Help and version are no errors; everything else the parser says is a usage error.
  private static func reportParsing(_ error: any Error) -> Int32 {
    if exitCode(for: error) == .success {
      do {
        try StandardOutput.print(fullMessage(for: error))
        try StandardOutput.flush()
      } catch let error as NibbleError { return report(error) } catch {}
      return 0
    }
    let text = message(for: error)
    let line = text.split(separator: "\n").map { String($0) }.joined(separator: " ")
    return report(NibbleError.usage("\(line)"))
  }
}

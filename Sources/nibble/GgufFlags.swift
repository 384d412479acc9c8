import ArgumentParser
import NibbleCalibration
import NibbleCore
import NibbleFormats

/// Flags of verbs that write whole models as GGUF.
struct GgufFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "GGUF: type of the matrices, or a mix of types by llama.cpp's name: \(GgufOptions.typeNames.joined(separator: ", ")) (default: quantize q4_k_m, others the types tensors have).",
      valueName: "type"))
  var ggufType: String?

  @Option(
    help: ArgumentHelp(
      "GGUF: name of the pre-tokenizer, for tokenizers that llama.cpp does not know by their tokens.", valueName: "name"))
  var ggufPre: String?

  @Flag(help: "GGUF: round the codes of a packed model to codes of another kind.")
  var allowRequantize = false

  @Option(
    help: ArgumentHelp(
      "GGUF: how much each input of the matrices counts in the search for scales, as llama-imatrix (GGUF or .dat) or 'nibble calibrate' found it.",
      valueName: "FILE"))
  var imatrix: String?

  /// - Parameter source: the model they are for; nil where that does not matter
  /// - Throws: `.badInput` for a file of importance that is none, `.adapterMismatch` for statistics of another model
  func options(for source: Checkpoint?, threads: Int) throws -> GgufOptions {
    var options = GgufOptions()
    (options.type, options.preTokenizer, options.requantizes) = (ggufType, ggufPre, allowRequantize)
    options.importance = try imatrix.map { try Self.importance($0, source, threads) }
    return options
  }

  private static func importance(_ path: String, _ source: Checkpoint?, _ threads: Int) throws -> Importance {
    guard StatisticsFile.begins(path) else { return try Importance(path) }
    let statistics = try StatisticsFile(path)
    if let source { try statistics.check(source, threads: threads) }
    return try statistics.importance()
  }
}

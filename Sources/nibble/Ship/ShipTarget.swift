import NibbleCore
import NibbleFormats

/// A program that models are sent to: what it loads, and the verb that makes it.
///
/// A new one is a line in `all`.
struct ShipTarget: Sendable {
  /// What `--for` calls it.
  let name: String
  /// The folder's file or folder that it loads, given to its users; `AutoModel` stands for the class of the model.
  let loads: String
  /// Where the model lies in the target's folder; empty for the folder itself.
  let file: String
  /// Words for `quantize` beside model and output, given whether the source is packed already.
  let words: @Sendable (_ isPacked: Bool) -> [String]
  /// Whether a Modelfile stands beside it.
  var hasModelfile = false
  /// What is known of the loader, and cannot be read off the file.
  var notes: [String] = []

  static let all: [ShipTarget] = [vllm, ollama, llamaCpp, mlx, bnb]

  private static let vllm = ShipTarget(
    name: "vllm", loads: "vllm serve vllm", file: "", words: { _ in ["--format", "compressed-tensors"] },
    notes: ["int4 in groups of 128, symmetric: what stock vLLM and transformers load"])

  private static let gguf: @Sendable (Bool) -> [String] = { ["--format", "gguf", "--gguf-type", $0 ? "q8_0" : "q4_k_m"] }

  private static let ollama = ShipTarget(
    name: "ollama", loads: "ollama create NAME -f ollama/Modelfile", file: "model.gguf", words: gguf, hasModelfile: true,
    notes: ["Ollama takes no adapters any more; they are merged"])

  private static let llamaCpp = ShipTarget(
    name: "llama.cpp", loads: "llama-cli -m llama.cpp/model.gguf", file: "model.gguf", words: gguf)

  private static let mlx = ShipTarget(
    name: "mlx", loads: "mlx_lm.generate --model mlx", file: "", words: { _ in ["--format", "mlx"] })

  private static let bnb = ShipTarget(
    name: "bnb", loads: "AutoModel.from_pretrained('bnb')", file: "", words: { _ in ["--format", "bnb", "--encoder", "auto"] },
    notes: ["vLLM reads it with its bitsandbytes plug-in alone"])

  /// What users of a model of this configuration type.
  func loads(_ config: JSON?) -> String { loads.replacing("AutoModel.", with: Self.autoClass(config) + ".") }

  /// The class of transformers that loads an architecture.
  private static func autoClass(_ config: JSON?) -> String {
    if TextPart.modelTypes.contains(config?["model_type"]?.string ?? "") { return "AutoModelForImageTextToText" }
    let architecture = config?["architectures"]?.array?.first?.string ?? ""
    let tasks = ["CausalLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM", "ImageClassification"]
    if let task = tasks.first(where: { architecture.hasSuffix("For" + $0) }) { return "AutoModelFor" + task }
    if architecture.hasSuffix("LMHeadModel") { return "AutoModelForCausalLM" }
    return architecture.hasSuffix("ForConditionalGeneration") ? "AutoModelForSeq2SeqLM" : "AutoModel"
  }

  /// - Throws: `.usage` for a name nobody has, or twice the same
  static func named(_ text: String) throws -> [ShipTarget] {
    var found: [ShipTarget] = []
    for name in text.split(separator: ",", omittingEmptySubsequences: false) {
      guard let target = all.first(where: { $0.name == name }) else {
        throw NibbleError.usage("--for \(quoted(String(name))): the programs are \(all.map(\.name).joined(separator: ", "))")
      }
      guard !found.contains(where: { $0.name == target.name }) else { throw NibbleError.usage("--for names \(target.name) twice") }
      found.append(target)
    }
    return found
  }
}

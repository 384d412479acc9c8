import NibbleCore
import NibbleFormats

/// A program that runs adapters beside a base: what it does not load, and what it computes otherwise than PEFT.
///
/// A new one is a line in `all`.
public struct AdapterServer: Sendable {
  /// What the command line calls it.
  public let name: String
  private let look: @Sendable (AdapterFile, Checkpoint?) throws -> [Finding]

  /// Something that stands between an adapter and a program.
  public struct Finding: Sendable {
    /// What becomes of the adapter.
    public enum Kind: String, Sendable {
      /// The program stops with an error.
      case refused
      /// It computes something else, and says nothing.
      case wrong
      /// It has to be started so.
      case setting
      /// It reads another layout.
      case layout
    }

    public let kind: Kind
    /// What is wrong, one line.
    public let text: MessageText
    public let remedy: Remedy
  }

  /// What can be done.
  public enum Remedy: Sendable, Equatable {
    case convert(AdapterConversion.Layout)
    case resize(rank: Int)
    case merge
    /// Start the program with an option of its own.
    case start(option: String, value: Int)
    case none
  }

  /// Every program nibble knows the limits of.
  public static let all: [AdapterServer] = [vllm, lorax, llamaCpp, mlx]

  /// - Parameter base: what the adapter is for
  /// - Throws: what reading the adapter throws
  public func findings(_ file: AdapterFile, base: Checkpoint?) throws -> [Finding] { try look(file, base) }

  /// vLLM's `PEFTHelper` reads r, lora_alpha, use_rslora, bias, modules_to_save and use_dora, and no patterns.
  private static let vllm = AdapterServer(name: "vllm") { file, _ in
    var found = beyondLoRA(file) { .init(kind: .refused, text: "vLLM loads no \($0)", remedy: file.config.method.foldsToLoRA ? .convert(.uniform) : .merge) }
    found += trainedBeside(file).map { .init(kind: .refused, text: "vLLM loads no \($0)", remedy: .merge) }
    found += unevenScales(file, "vLLM")
    let ranks = [8, 16, 32, 64, 128, 256, 320, 512], rank = file.modules.map(\.pairRank).max() ?? 0
    if let needed = ranks.first(where: { $0 >= rank }) {
      if needed > 16 {
        found.append(
          .init(kind: .setting, text: "rank \(rank) is above vLLM's default of 16", remedy: .start(option: "max-lora-rank", value: needed)))
      }
    } else {
      found.append(.init(kind: .refused, text: "rank \(rank) is above vLLM's largest, 512", remedy: .resize(rank: 512)))
    }
    return found
  }

  /// LoRAX takes `lora_A` and `lora_B` of kinds of layers that the adapter has in every layer, stacks them, and looks at nothing else.
  private static let lorax = AdapterServer(name: "lorax") { file, base in
    var found = beyondLoRA(file) { .init(kind: .wrong, text: "LoRAX takes the factors of \($0) for plain LoRA's", remedy: file.config.method.foldsToLoRA ? .convert(.uniform) : .merge) }
    found += trainedBeside(file).map { .init(kind: .wrong, text: "LoRAX leaves out \($0)", remedy: .merge) }
    found += unevenScales(file, "LoRAX")
    var kinds: [String: [(layer: Int, rank: Int)]] = [:]
    for module in file.modules {
      if let (layer, kind) = place(module.path) { kinds[kind, default: []].append((layer, module.pairRank)) }
    }
    let layers = base?.networkConfig?["num_hidden_layers"]?.int ?? kinds.values.flatMap { $0 }.map { $0.layer + 1 }.max() ?? 0
    for (kind, places) in kinds.sorted(by: { $0.key < $1.key }) {
      if Set(places.map(\.layer)).count < layers {
        found.append(
          .init(
            kind: .wrong, text: "LoRAX leaves out \(kind), which the adapter has in \(places.count) of \(layers) layers", remedy: .merge))
      }
      if Set(places.map(\.rank)).count > 1 {
        found.append(.init(kind: .refused, text: "LoRAX stacks \(kind) of all layers, and its ranks differ", remedy: .convert(.uniform)))
      }
    }
    return found
  }

  private static let llamaCpp = AdapterServer(name: "llama.cpp") { file, base in
    try converted(file, base, to: .gguf, "llama.cpp reads GGUF")
  }

  private static let mlx = AdapterServer(name: "mlx") { file, base in
    try converted(file, base, to: .mlx, "mlx-lm reads a layout of its own")
  }

  /// What tells programs apart that read another layout: whether it can say what the adapter is.
  private static func converted(
    _ file: AdapterFile, _ base: Checkpoint?, to layout: AdapterConversion.Layout, _ text: String
  ) throws -> [Finding] {
    do {
      if layout == .gguf, base == nil {
        _ = try AdapterContents(file, base: nil)
      } else {
        _ = try AdapterConversion(file.path, to: layout, base: base).report()
      }
      return [.init(kind: .layout, text: "\(text)", remedy: .convert(layout))]
    } catch let error as NibbleError where [.usage, .badInput, .adapterMismatch].contains(error.kind) {
      return [.init(kind: .refused, text: "\(text), which cannot hold it: " + error.text, remedy: .merge)]
    }
  }

  /// What an adapter is where it is not plain LoRA.
  private static func beyondLoRA(_ file: AdapterFile, _ finding: (String) -> Finding) -> [Finding] {
    guard file.config.method != LoRA.self else { return [] }
    return [finding(file.config.method.name)]
  }

  /// What was trained beside the factors of linear layers.
  private static func trainedBeside(_ file: AdapterFile) -> [String] {
    var parts: [String] = []
    let whole = file.replacements.filter { !$0.name.hasSuffix(".bias") }, biases = file.replacements.count - whole.count
    if let first = whole.first { parts.append("parameters trained whole: \(whole.count), such as \(quoted(first.name))") }
    if biases > 0 { parts.append("trained biases: \(biases)") }
    if file.modules.contains(where: { !$0.extras.isEmpty && $0.method == LoRA.self }) { parts.append("biases of factors") }
    for rows in file.tokenRows { parts.append("trained rows: \(rows.tokens.count) of \(quoted(rows.path))") }
    if let module = file.modules.first(where: \.isParameter) { parts.append("factors of a parameter: \(quoted(module.path))") }
    if let module = file.modules.first(where: \.isConvolution) { parts.append("factors of a convolution: \(quoted(module.path))") }
    if !file.config.layerReplication.isEmpty { parts.append("repeated layers") }
    return parts
  }

  /// Scales other than the one that r and lora_alpha give.
  private static func unevenScales(_ file: AdapterFile, _ program: String) -> [Finding] {
    let rank = Double(file.config.rank), config = file.config
    let common = config.alpha / (config.isRankStabilized ? rank.squareRoot() : rank)
    let other = file.modules.filter { !(abs($0.scale - common) <= 1e-6 * abs(common)) }
    guard let first = other.first else { return [] }
    return [
      .init(
        kind: .wrong,
        text: "\(program) multiplies every module by lora_alpha and r alone, \(common), and \(other.count) of \(file.modules.count) have another "
          + "scale: \(first.scale) for \(quoted(first.path))",
        remedy: .convert(.uniform))
    ]
  }

  /// A module's layer, and its path within it.
  private static func place(_ path: String) -> (layer: Int, kind: String)? {
    let parts = path.split(separator: ".")
    guard let at = parts.firstIndex(where: { Int($0) != nil }), let layer = Int(parts[at]) else { return nil }
    return (layer, parts[(at + 1)...].joined(separator: "."))
  }
}

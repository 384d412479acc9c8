import NibbleCore

/// What llama.cpp's files call the tensors of some `model_type`s, and how their numbers lie there: both ways.
///
/// The names and the row orders are those of llama.cpp's `convert_hf_to_gguf.py` and gguf-py's `tensor_mapping.py`.
package struct LlamaCppNames: Sendable {
  /// A Hugging Face module path and llama.cpp's name for it, both without `.weight`.
  package typealias Pair = (peft: String, gguf: String)

  /// `model_type`s whose names these are; the first is what a file of the architecture is taken for.
  package let modelTypes: [String]
  /// `general.architecture`, which also begins the keys of its numbers.
  package let architecture: String
  /// What paths begin with in the whole model, which checkpoints of the bare model leave out.
  let prefix: String
  /// What stands before a layer's number, after `prefix`.
  let layers: String
  /// Modules of a layer.
  package private(set) var inLayer: [Pair]
  /// Modules outside layers, after `prefix`.
  let whole: [Pair]
  /// Modules that have no prefix.
  let heads: [Pair]
  /// Modules of a layer's experts, which files hold one by one here; there a tensor holds all of a layer. nil where there are none.
  var experts: Experts?
  /// The second projection of latents, which is two tensors there; nil where there is none.
  var latent: Latent?
  /// Parameters of a layer that are no module's weight or bias, and llama.cpp's tensors.
  var parameters: [Pair] = []
  /// Whether rotary positions are interleaved there: rows of queries and keys have another order.
  var isInterleaved = false
  /// llama.cpp's names of weights that are stored [in, out] here.
  var transposed: Set<String> = []
  /// How one projection of queries, keys and values lies here: so many groups of heads, and how many heads of each kind a group has, one
  /// kind after another. There all queries come first, then all keys. nil where they lie here as there.
  var fusedHeads: (@Sendable (JSON?) throws -> (groups: Int, parts: [Int]))?
  /// Whether norms multiply with one more than what is stored here.
  var normsAddOne = false
  /// Whether the table of positions begins with rows for padding, which is left out there.
  var cutsPositions = false
  /// llama.cpp's names of modules whose weight is a matrix of one row here. llama.cpp takes it for a vector, and writes it as one.
  var ofOneRow: Set<String> = []
  /// llama.cpp's names of modules whose bias it does not load: files are not written with one.
  var withoutBias: Set<String> = []
  /// A module whose outputs are there those of two, first all of one: both are `inLayer`, under names of their own. nil where there is none.
  var halves: (whole: String, first: String, second: String)?
  /// Whether some layers have other modules than the rest.
  var layersDiffer = false
  /// What becomes of layers behind the last, which predict further tokens.
  var further = FurtherLayers.refused
  /// Stacks of layers beside each other, as an encoder with a decoder has them; `inLayer` is empty then.
  var stacks: [Stack] = []
  /// Modules that the first layer may lack.
  var firstLayerLacks: [String] = []
  /// Where the model is the text model of one that takes pictures as well.
  package var part: TextPart?
  /// Whether adapters are converted.
  package var takesAdapters = true
  /// Tensors that llama.cpp has no use for, and why: full names, searched.
  var dropped: [(pattern: Pattern?, reason: String)] = []

  /// One of several stacks of layers.
  struct Stack: Sendable {
    /// What stands before a layer's number here, and there.
    let layers: String, gguf: String
    /// Modules of a layer.
    var inLayer: [Pair]
    /// The configuration's keys of how many layers it has.
    let count: [String]
  }

  /// Layers behind the last, which predict further tokens: models run without them.
  enum FurtherLayers: Sendable {
    /// There are none.
    case refused
    /// llama.cpp's files have them.
    case kept
    /// They are left out of llama.cpp's files.
    case leftOut
  }

  /// Experts of a layer.
  struct Experts: Sendable {
    /// What stands before an expert's number, in a layer.
    let path: String
    /// Modules of an expert, and the tensors of all experts that hold them.
    let modules: [Pair]
    /// Whether modules have biases.
    var hasBiases = false
    /// A module whose outputs are those of two of `modules`, which are parted there; nil where there is none.
    var joined: (whole: String, first: String, second: String)?
    /// Whether its outputs are those of the two in turn, rather than first all of one.
    var takesTurns = true

    /// What the tensor that an expert's weight or bias is part of is sorted by among those of its layer: by the names that files have here.
    func place(of tensor: String) -> String {
      let parts = tensor.split(separator: ".").suffix(2).map(String.init)
      guard let module = parts.first else { return "" }
      let bias = parts.last == "bias" ? "_bias" : ""
      guard let joined, module == joined.first || module == joined.second else { return module + bias }
      return joined.whole + bias + (module == joined.first ? "0" : "1")
    }
  }

  /// - Parameters:
  ///   - layers: what stands before a layer's number, after `prefix`
  init(
    _ modelTypes: [String], architecture: String, prefix: String, layers: String, inLayer: [Pair], whole: [Pair], heads: [Pair] = []
  ) {
    (self.modelTypes, self.architecture, self.prefix, self.layers) = (modelTypes, architecture, prefix, layers)
    (self.inLayer, self.whole, self.heads) = (inLayer, whole, heads)
  }

  /// What of a model is one parameter here and two tensors there.
  var parted: (whole: String, first: String, second: String)? { experts?.joined ?? halves }

  /// What old files hold of positions.
  static let frequencies: (pattern: Pattern?, reason: String) = (
    try? Pattern(#"(^|\.)rotary_emb\.inv_freq$"#), "llama.cpp computes the frequencies of positions itself"
  )

  /// Those of every family.
  package static var all: [LlamaCppNames] { ModelFamily.all.flatMap(\.llamaCpp) }

  /// Those of a `model_type`, nil where llama.cpp's names are not known.
  package static func of(modelType: String) -> LlamaCppNames? { all.first { $0.modelTypes.contains(modelType) } }

  /// Those of a `general.architecture`: several where llama.cpp has one name for what are several `model_type`s here (`bert`).
  package static func of(architecture: String) -> [LlamaCppNames] { all.filter { $0.architecture == architecture } }

  // MARK: - Names

  /// What a text model that stands by itself calls a module or a tensor.
  private func own(_ name: String) -> String { part.flatMap { $0.own($0.inModules(name)) } ?? name }

  /// llama.cpp's name of a module, without `.weight`; the path with or without the model's prefix.
  package func gguf(module name: String) -> String? {
    let full = own(name), path = full.hasPrefix(prefix) ? full.dropFirst(prefix.count) : full[...]
    if let head = heads.first(where: { $0.peft == full }) { return head.gguf }
    if let found = whole.first(where: { $0.peft == path }) { return found.gguf }
    for stack in stacks {
      guard let place = Self.split(path, behind: stack.layers), let found = stack.inLayer.first(where: { $0.peft == place.rest }) else { continue }
      return "\(stack.gguf)\(place.number).\(found.gguf)"
    }
    guard let place = Self.split(path, behind: layers), let found = inLayer.first(where: { $0.peft == place.rest }) else { return nil }
    return "blk.\(place.number).\(found.gguf)"
  }

  /// The layer that a tensor is of; nil for those outside layers.
  func layer(of tensor: String) -> Int? {
    let own = own(tensor)
    return Self.split(own.hasPrefix(prefix) ? own.dropFirst(prefix.count) : own[...], behind: layers).flatMap { Int($0.number) }
  }

  /// A number that stands between `start` and a dot, and what follows.
  private static func split(_ path: Substring, behind start: String) -> (number: Substring, rest: Substring)? {
    guard path.hasPrefix(start) else { return nil }
    let path = path.dropFirst(start.count)
    guard let dot = path.firstIndex(of: "."), isNumber(path[..<dot]) else { return nil }
    return (path[..<dot], path[path.index(after: dot)...])
  }

  /// llama.cpp's tensor that holds the weight of an expert, and which of them it is there; nil for what is no expert's.
  package func expert(tensor name: String) -> (gguf: String, number: Int)? {
    guard let experts, let part = Self.parts(own(name)), part.suffix == ".weight" || experts.hasBiases else { return nil }
    let path = part.module.hasPrefix(prefix) ? part.module.dropFirst(prefix.count) : part.module[...]
    guard let layer = Self.split(path, behind: layers), let expert = Self.split(layer.rest, behind: experts.path),
      let found = experts.modules.first(where: { $0.peft == expert.rest }), let number = Int(expert.number)
    else { return nil }
    return ("blk.\(layer.number).\(found.gguf)\(part.suffix)", number)
  }

  /// The weights of so many experts that one of llama.cpp's tensors holds; nil for one that holds no experts.
  package func huggingFace(experts count: Int, of name: String) -> [String]? {
    guard let experts, let part = Self.parts(name), part.suffix == ".weight" || experts.hasBiases, let layer = Self.split(part.module[...], behind: "blk."),
      let found = experts.modules.first(where: { $0.gguf == layer.rest })
    else { return nil }
    return (0..<count).map { "\(prefix)\(layers)\(layer.number).\(experts.path)\($0).\(found.peft)\(part.suffix)" }
  }

  /// The path of a module in the whole model, with the model's prefix.
  package func huggingFace(module name: String) -> String? {
    if let head = heads.first(where: { $0.gguf == name }) { return head.peft }
    if let found = whole.first(where: { $0.gguf == name }) { return prefix + found.peft }
    for stack in stacks {
      guard let place = Self.split(name[...], behind: stack.gguf), let found = stack.inLayer.first(where: { $0.gguf == place.rest }) else { continue }
      return "\(stack.layers)\(place.number).\(found.peft)"
    }
    let parts = name.split(separator: ".", maxSplits: 2, omittingEmptySubsequences: false)
    guard parts.count == 3, parts[0] == "blk", Self.isNumber(parts[1]), let found = inLayer.first(where: { $0.gguf == parts[2] })
    else { return nil }
    return "\(prefix)\(layers)\(parts[1]).\(found.peft)"
  }

  /// The same, where one of llama.cpp's names of a layer stands for this module of several that it may be.
  func taking(_ module: String) -> LlamaCppNames {
    var names = self
    names.inLayer.sort { $0.peft == module && $1.peft != module }
    for index in names.stacks.indices { names.stacks[index].inLayer.sort { $0.peft.hasSuffix("." + module) && !$1.peft.hasSuffix("." + module) } }
    return names
  }

  /// A module's path in the whole model, given its path in a checkpoint that may be the bare model's.
  package func fullPath(_ path: String) -> String {
    part != nil || path.hasPrefix(prefix) || heads.contains { $0.peft == path } || gguf(module: path) == nil ? path : prefix + path
  }

  /// llama.cpp's name of a tensor; nil where it has none.
  package func gguf(tensor name: String) -> String? {
    let own = own(name), path = own.hasPrefix(prefix) ? own.dropFirst(prefix.count) : own[...]
    if !parameters.isEmpty, let place = Self.split(path, behind: layers), let found = parameters.first(where: { $0.peft == place.rest }) {
      return "blk.\(place.number).\(found.gguf)"
    }
    guard let part = Self.parts(name), let module = gguf(module: part.module) else { return nil }
    let leaf = module.split(separator: ".").last.map(String.init) ?? module
    return part.suffix == ".bias" && withoutBias.contains(leaf) ? nil : module + part.suffix
  }

  /// The name of a tensor in the whole model, with the model's prefix; nil where it is none of these models'.
  package func huggingFace(tensor name: String) -> String? {
    if !parameters.isEmpty, let place = Self.split(name[...], behind: "blk."), let found = parameters.first(where: { $0.gguf == place.rest }) {
      return "\(prefix)\(layers)\(place.number).\(found.peft)"
    }
    return Self.parts(name).flatMap { part in huggingFace(module: part.module).map { $0 + part.suffix } }
  }

  /// Why a tensor has no place in llama.cpp's file and may be left out; nil where it has one or must not.
  ///
  /// - Parameter hasHead: whether the checkpoint has a classification head
  package func reasonToDrop(_ tensor: String, hasHead: Bool = false) -> String? {
    if part?.isOther(tensor) == true { return "llama.cpp has parts for pictures in a file of their own" }
    if hasHead, gguf(tensor: tensor) != nil { return nil }
    return dropped.first { (try? $0.pattern?.isFound(in: tensor)) == true }?.reason
  }

  /// Norms of TensorFlow's checkpoints are called gamma and beta.
  private static let suffixes = [(".weight", ".weight"), (".bias", ".bias"), (".gamma", ".weight"), (".beta", ".bias")]

  private static func parts(_ name: String) -> (module: String, suffix: String)? {
    suffixes.first { name.hasSuffix($0.0) }.map { (String(name.dropLast($0.0.count)), $0.1) }
  }

  /// A number as it is written, so that no two texts are one layer.
  private static func isNumber(_ text: Substring) -> Bool { Int(text).map { $0 >= 0 && String($0) == text } ?? false }

  /// Whether one of these tensors is a classification head's.
  package func hasHead(_ tensors: [String]) -> Bool { tensors.contains { gguf(tensor: $0) == "cls.output.weight" } }

  // MARK: - Numbers

  /// The shape here of one of llama.cpp's tensors that has this shape there, rows first.
  func shape(of name: String, _ shape: [Int]) -> [Int] {
    guard shape.count == 1, let part = Self.parts(name), part.suffix == ".weight",
      ofOneRow.contains(part.module.split(separator: ".").last.map(String.init) ?? "")
    else { return shape }
    return [1] + shape
  }

  /// How the numbers of one of llama.cpp's tensors come from Hugging Face's.
  ///
  /// - Parameters:
  ///   - name: llama.cpp's, with `.weight` or `.bias`
  ///   - config: config.json
  /// - Throws: `.badInput` for a config without what is needed
  package func form(_ name: String, _ config: JSON?) throws -> LlamaCppForm {
    guard let part = Self.parts(name) else { return .same }
    let module = part.module.split(separator: ".").last.map(String.init) ?? ""
    if isInterleaved, module == "attn_q" || module == "attn_k" {
      let heads = try Self.heads(config)
      return .interleaved(heads: module == "attn_q" ? heads.queries : heads.keys)
    }
    if module == "attn_qkv", let heads = try fusedHeads?(config), heads.groups > 1 {
      return .gathered(groups: heads.groups, parts: heads.parts)
    }
    if transposed.contains(module), part.suffix == ".weight" { return .transposed }
    if normsAddOne, module.hasSuffix("norm") { return .plusOne }
    if cutsPositions, module == "position_embd", let rows = Self.positionsLeftOut(config) { return .withoutFirst(rows: rows) }
    return .same
  }

  /// Rows of RoBERTa's table of positions before that of the first token: one more than the number of the padding token. nil where the
  /// configuration says that there is none.
  package static func positionsLeftOut(_ config: JSON?) -> Int? {
    guard let padding = config?["pad_token_id"] else { return 2 }
    return padding.int.flatMap { (0...1 << 30).contains($0) ? $0 + 1 : nil }
  }

  /// Heads of queries and of keys.
  ///
  /// - Throws: `.badInput`
  package static func heads(_ config: JSON?) throws -> (queries: Int, keys: Int) {
    let numbers = HuggingFaceNumbers(config ?? .object([]), config?["model_type"]?.string ?? "", place: "")
    guard let queries = numbers.value(["num_attention_heads"])?.int, (1...1 << 16).contains(queries) else {
      throw NibbleError.badInput("the configuration has no num_attention_heads")
    }
    let keys = numbers.value(["num_key_value_heads"])?.int ?? queries
    guard (1...queries).contains(keys) else { throw NibbleError.badInput("num_key_value_heads is \(keys)") }
    return (queries, keys)
  }
}

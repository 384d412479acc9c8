import NibbleQuant

/// A way to choose a type of ggml's for each tensor of a model, by a name such as `q4_k_m`: more bits where errors cost more.
///
/// The choices are those of llama.cpp's `llama-quantize` (`llama_tensor_get_type`); some are others with an importance matrix.
public struct GgufMix: Sendable {
  /// The name on the command line: "q4_k_m".
  public let name: String
  /// `general.file_type` of a file made so.
  public let fileType: Int
  /// What tensors are unless something else is said of them.
  public let base: GGMLType

  /// Where a tensor stands among those of its kind.
  private typealias Rule = @Sendable (_ place: Int, _ count: Int, _ model: Model) -> GGMLType?
  /// For values of attention, fused projections too.
  private let values: Rule
  /// For the second half of feed-forward layers.
  private let down: Rule
  /// For the projection of what attention gives.
  private let attended: Rule

  private init(
    _ name: String, _ fileType: Int, _ base: GGMLType, values: @escaping Rule = { _, _, _ in nil },
    down: @escaping Rule = { _, _, _ in nil }, attended: @escaping Rule = { _, _, _ in nil }
  ) {
    (self.name, self.fileType, self.base, self.values, self.down, self.attended) = (name, fileType, base, values, down, attended)
  }

  /// Every mix of types that this program writes.
  public static let all: [GgufMix] = [
    GgufMix("f32", 0, .f32), GgufMix("f16", 1, .f16), GgufMix("bf16", 32, .bf16), GgufMix("q8_0", 7, .q8_0), GgufMix("q6_k", 18, .q6_k),
    GgufMix("q5_k_m", 17, .q5_k, values: sensitive, down: sensitive), GgufMix("q5_k_s", 16, .q5_k),
    GgufMix("q5_1", 9, .q5_1), GgufMix("q5_0", 8, .q5_0, down: guarded(.q5_1)),
    GgufMix("q4_k_m", 15, .q4_k, values: sensitive, down: sensitive, attended: ofExperts),
    GgufMix(
      "q4_k_s", 14, .q4_k, values: { place, _, _ in place < 4 ? .q5_k : nil }, down: firstEighth, attended: ofExperts),
    GgufMix("q4_1", 3, .q4_1), GgufMix("q4_0", 2, .q4_0, down: guarded(.q4_1)),
    GgufMix("iq4_nl", 25, .iq4_nl, values: shared, down: unweighed, attended: ofExperts),
    GgufMix("iq4_xs", 30, .iq4_xs, values: shared, down: unweighed, attended: ofExperts),
    GgufMix("mxfp4_moe", 38, .mxfp4),
    GgufMix(
      "q3_k_l", 13, .q3_k, values: { _, _, _ in .q5_k }, down: { _, _, _ in .q5_k },
      attended: { _, _, model in model.experts == 8 ? nil : .q5_k }),
    GgufMix(
      "q3_k_m", 12, .q3_k, values: { place, _, _ in place < 2 ? .q5_k : .q4_k },
      down: { place, count, _ in place < count / 16 ? .q5_k : .q4_k }, attended: { _, _, model in model.experts == 8 ? .q5_k : .q4_k }),
    GgufMix("q3_k_s", 11, .q3_k, attended: ofExperts),
    GgufMix(
      "q2_k", 10, .q2_k, values: { _, _, model in model.shares >= 4 ? .q4_k : .q3_k }, down: { _, _, _ in .q3_k },
      attended: { _, _, model in model.experts == 8 ? .q5_k : .q3_k }),
  ]

  /// Other names of llama-quantize.
  private static let aliases = ["q5_k": "q5_k_m", "q4_k": "q4_k_m", "q3_k": "q3_k_m"]

  /// The mix of a name in any case; nil for others.
  public init?(name: String) {
    let lower = name.lowercased()
    guard let known = Self.all.first(where: { $0.name == Self.aliases[lower] ?? lower }) else { return nil }
    self = known
  }

  /// What of a model bears on the choice.
  public struct Model: Sendable {
    /// `general.architecture`.
    public var architecture: String
    /// Layers.
    public var layers: Int
    /// Heads of queries, and of keys and values, in the first layer.
    public var heads: Int
    public var keyHeads: Int
    /// Experts of a layer; 0 where there are none.
    public var experts: Int
    /// Whether there is an importance matrix.
    public var hasImportance = false

    public init(architecture: String, layers: Int, heads: Int, keyHeads: Int, experts: Int = 0) {
      (self.architecture, self.layers, self.heads, self.keyHeads, self.experts) = (architecture, layers, heads, keyHeads, experts)
    }

    var isFalcon: Bool { architecture == "falcon" }

    /// Heads of queries that share one of keys and values.
    var shares: Int { keyHeads > 0 ? heads / keyHeads : 0 }

    /// Whether llama.cpp takes it for one of 70 billion weights, whose values are few beside the rest.
    var isOf70B: Bool {
      switch architecture {
      case "llama": layers == 80 && heads != keyHeads
      case "qwen2", "deci", "olmo": layers == 80
      case "jais2": layers == 68
      default: false
      }
    }
  }

  /// What was chosen for a tensor.
  public struct Choice: Sendable, Equatable {
    public var type: GGMLType
    /// What it would be if its rows were whole blocks of that.
    public var wanted: GGMLType
  }

  /// A type for each tensor of a model. Norms, vectors, and what else llama.cpp leaves alone become f32.
  ///
  /// - Parameter tensors: llama.cpp's names, and shapes with rows first
  public func types(of tensors: [(name: String, shape: [Int])], in model: Model) -> [Choice] {
    var parts = Parts()
    let said = tensors.map { parts.said(of: $0.name) }
    let kinds = zip(tensors, said).map { tensor, said in said.isPacked && tensor.shape.drop { $0 == 1 }.count >= 2 ? said.kind : nil }
    let places = Self.places(tensors.map(\.name), kinds)
    let isTied = !tensors.contains { $0.name == "output.weight" }
    let values = said.count { $0.kind == .values }
    return tensors.indices.map { index in
      guard let kind = kinds[index], let columns = tensors[index].shape.last else { return Choice(type: .f32, wanted: .f32) }
      let head = kind == .head || isTied && kind == .tokens
      let wanted = head ? (model.isFalcon ? .q8_0 : self.head(columns)) : chosen(kind, tensors[index].shape, places[index], values, tensors[index].name, model)
      return Choice(type: base.dtype == nil ? Self.fitting(wanted, columns) : base, wanted: base.dtype == nil ? wanted : base)
    }
  }

  // MARK: - Kinds

  private enum Kind {
    case head, tokens, values, keys, attended, down, other

    /// By llama.cpp's name; the first that fits.
    init(_ name: String) {
      switch name {
      case "output.weight": self = .head
      case "token_embd.weight", "per_layer_token_embd.weight": self = .tokens
      default: self = Self.inLayers.first { name.contains($0.0) }?.1 ?? .other
      }
    }

    private static let inLayers: [(String, Kind)] = [
      ("attn_qkv.weight", .values), ("attn_kv_b.weight", .values), ("attn_v.weight", .values), ("attn_k.weight", .keys),
      ("attn_q.weight", .other), ("attn_output.weight", .attended), ("ffn_up", .other), ("ffn_gate", .other), ("ffn_down", .down),
    ]
  }

  /// What names say of tensors: found once for all layers, as looking into texts takes its time.
  private struct Parts {
    private var known: [Substring: (kind: Kind, isPacked: Bool)] = [:]

    /// The kind of a tensor, and whether llama.cpp packs it if it is a matrix.
    mutating func said(of name: String) -> (kind: Kind, isPacked: Bool) {
      let rest = name.utf8.starts(with: "blk.".utf8) ? name.utf8.dropFirst(4).firstIndex(of: UInt8(ascii: ".")).map { name[$0...] } : nil
      let part = rest ?? Substring(name)
      if let said = known[part] { return said }
      let said = (kind: Kind(name), isPacked: GgufMix.isPacked(name))
      known[part] = said
      return said
    }
  }

  /// Whether llama.cpp packs matrices of this name: those that end in `weight`, without norms, gates of experts, and tables of positions.
  private static func isPacked(_ name: String) -> Bool {
    guard name.hasSuffix("weight"), !["position_embd.weight", "token_types.weight"].contains(name) else { return false }
    return !alwaysFloat.contains { name.contains($0) }
  }

  private static let alwaysFloat = ["_norm.weight", "ffn_gate_inp.weight", "attn_rel_b.weight", "ssm_conv1d", "shortconv.conv.weight"]

  /// The layer in a name; -1 outside layers.
  private static func layer(_ name: String) -> Int {
    name.hasPrefix("blk.") ? Int(name.dropFirst(4).prefix { $0 != "." }) ?? -1 : -1
  }

  /// Where each tensor stands among those of its kind: by layers, then by names.
  private static func places(_ names: [String], _ kinds: [Kind?]) -> [Int] {
    let ordered = names.indices.map { (layer: layer(names[$0]), index: $0) }.sorted {
      $0.layer == $1.layer ? names[$0.index].utf8.lexicographicallyPrecedes(names[$1.index].utf8) : $0.layer < $1.layer
    }
    var seen: [Kind: Int] = [:], places = names.map { _ in 0 }
    for (_, index) in ordered {
      guard let kind = kinds[index] else { continue }
      places[index] = seen[kind, default: 0]
      seen[kind, default: 0] += 1
    }
    return places
  }

  // MARK: - Choosing

  /// What the output head is, and the embedding where there is no other.
  private func head(_ columns: Int) -> GGMLType {
    columns % base.blockElements != 0 || base == .q8_0 || base == .mxfp4 ? .q8_0 : .q6_k
  }

  private func chosen(_ kind: Kind, _ shape: [Int], _ place: Int, _ values: Int, _ tensor: String, _ model: Model) -> GGMLType {
    if base == .mxfp4 { return shape.count > 2 && shape[shape.count - 3] > 1 ? base : .q8_0 }
    switch kind {
    case .head, .tokens, .other: return base
    case .values:
      if model.experts == 8 { return .q8_0 }
      let type = self.values(place, values, model) ?? base
      return model.isOf70B && [.q3_k, .q4_k].contains(type) ? .q5_k : type
    case .keys: return model.experts == 8 ? .q8_0 : base
    case .down where model.isFalcon: return falconDown(place, model) ?? base
    case .attended where model.isFalcon: return name == "q3_k_l" ? .q4_k : base
    case .down: return down(model.experts > 1 ? Self.layer(tensor) : place, model.layers, model) ?? base
    case .attended: return attended(place, values, model) ?? base
    }
  }

  /// Falcon's feed-forward layers take fewer bits.
  private func falconDown(_ place: Int, _ model: Model) -> GGMLType? {
    let count = model.layers
    let isSensitive = Self.sensitive(place, count, Model(architecture: "falcon", layers: count, heads: 1, keyHeads: 1)) != nil
    switch name {
    case "q3_k_m": return place < count / 16 ? .q5_k : isSensitive ? .q4_k : nil
    case "q3_k_l": return .q4_k
    case "q4_k_m": return place < count / 16 ? .q6_k : isSensitive ? .q5_k : nil
    case "q5_k_m": return isSensitive ? .q6_k : nil
    case "iq4_nl", "iq4_xs", "q4_0", "q5_0": return down(place, count, model)
    case "q2_k": return .q3_k
    default: return nil
    }
  }

  /// The type for rows of so many numbers: a wanted one, or what llama.cpp falls back to.
  static func fitting(_ wanted: GGMLType, _ columns: Int) -> GGMLType {
    if columns % wanted.blockElements == 0 { return wanted }
    let other: GGMLType =
      switch wanted {
      case .iq4_xs: .iq4_nl
      case .q2_k, .q3_k: .q4_0
      case .q4_k: .q5_0
      case .q5_k: .q5_1
      case .q6_k: .q8_0
      default: wanted
      }
    return columns % other.blockElements == 0 ? other : .f16
  }

  // MARK: - Rules of several mixes

  /// The first and the last eighth, and every third between them.
  private static let sensitive: Rule = { place, count, _ in
    place < count / 8 || place >= 7 * count / 8 || (place - count / 8) % 3 == 2 ? .q6_k : nil
  }
  private static let firstEighth: Rule = { place, count, _ in place < count / 8 ? .q5_k : nil }
  private static let unweighed: Rule = { place, count, model in model.hasImportance ? nil : firstEighth(place, count, model) }
  /// The first feed-forward layers go wrong with an importance matrix at times.
  private static func guarded(_ type: GGMLType) -> Rule { { place, count, model in model.hasImportance && place < count / 8 ? type : nil } }
  /// Where four heads of queries and more share one of values.
  private static let shared: Rule = { _, _, model in model.shares >= 4 ? .q5_k : nil }
  private static let ofExperts: Rule = { _, _, model in model.experts == 8 ? .q5_k : nil }
}

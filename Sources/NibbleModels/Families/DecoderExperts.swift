import NibbleCompute
import NibbleCore

/// What experts of a decoder's layers are called, and which layers have them in the place of the MLP.
struct DecoderExperts {
  var router = "mlp.gate", expert = "mlp.experts."
  /// Of an expert, as of an MLP.
  var up = ["gate_proj", "up_proj"], down = "down_proj"
  /// Whether router and experts have biases.
  var hasBias = false
  /// Whether experts' weights are stored [inputs, outputs].
  var isTurned = false
  /// A vector that is added to scores where experts are picked.
  var correction: String?
  /// The expert that every token takes, with a gate of its own or without.
  struct Shared {
    var name: String
    var gate: String?
    /// Its first projections, stored as those of an MLP; nil for the same as of the others.
    var up: [String]?
    var inner: Int, hasBias = false
  }
  var shared: Shared?
  var count: Int, rule: RoutingRule, inner: Int
  /// Of each layer, whether it has them.
  var layers: [Bool]

  /// Those of one layer.
  func experts(_ layer: DecoderLayer) throws -> Experts {
    func mlp(_ name: String, _ inner: Int, _ hasBias: Bool, up own: [String]? = nil) throws -> Expert {
      try layer.mlp((own ?? up).map { name + $0 }, name + down, inner, hasBias: hasBias, isTurned: own == nil && isTurned)
    }
    return Experts(
      router: try layer.linear(router, count, layer.shape.width, hasBias: hasBias),
      all: try (0..<count).map { try mlp(expert + "\($0).", inner, hasBias) }, rule: rule,
      correction: try correction.map { try layer.finiteVector($0, count) },
      shared: try shared.map { own in
        SharedExpert(
          try mlp(own.name + ".", own.inner, own.hasBias, up: own.up), gate: try own.gate.map { try layer.linear($0, 1, layer.shape.width) })
      })
  }
}

extension ConfigReader {
  /// `num_local_experts`, or `num_experts`, its other name in transformers; families may have others.
  ///
  /// - Throws: where both are there, and differ
  func expertCount(_ names: [String] = ["num_local_experts", "num_experts"], default usual: Int, least: Int = 1) throws -> Int {
    let said = names.filter { self[$0] != nil }
    let counts = try said.map { try int($0, least...1 << 16) }
    guard Set(counts).count < 2 else { throw fail("\(key: said[0]) is \(counts[0]), \(key: said[1]) is \(counts[1])") }
    return counts.first ?? usual
  }

  /// `num_experts_per_tok`.
  func usedExperts(of count: Int, default usual: Int) throws -> Int {
    let used = try int("num_experts_per_tok", 1...count, default: usual)
    guard used <= count else {
      throw fail("\(key: "num_experts_per_tok") is missing, and its default, \(usual), is more than \(count) experts")
    }
    return used
  }

  /// Refuses what adds the balance of experts to the loss.
  func refuseRouterLoss() throws { try refuse(["output_router_logits"]) }

  /// Of each layer, whether it has experts: every so many of them (`decoder_sparse_step`), and none that is listed (`mlp_only_layers`).
  func sparseLayers(_ layers: Int) throws -> [Bool] {
    let step = try int("decoder_sparse_step", 1...Limits.layers.upperBound, default: 1)
    var dense: Set<Int> = []
    if let list = self["mlp_only_layers"] {
      guard let numbers = list.array?.map(\.int), !numbers.contains(nil) else { throw wrong("mlp_only_layers", list, "numbers of layers") }
      dense = Set(numbers.compactMap { $0 })
    }
    return (0..<layers).map { !dense.contains($0) && ($0 + 1) % step == 0 }
  }
}

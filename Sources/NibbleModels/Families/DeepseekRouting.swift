import NibbleCore

/// What a family with DeepSeek-V3's experts takes where its configuration is silent.
struct UsualExperts {
  var count: Int, inner: Int, firstLayer: Int, used: Int, groups: Int, usedGroups: Int, scale: Double
}

/// DeepSeek's experts, which other families have, too: those of the layers behind the first, and beside them one that every token takes, of
/// the size of some.
extension ConfigReader {
  /// V3's.
  func correctedExperts(_ layers: Int, _ usual: UsualExperts) throws -> DecoderExperts {
    let count = try expertCount(["n_routed_experts", "num_local_experts"], default: usual.count)
    var experts = try expertsWithShared(
      layers, count, sigmoidRouting(of: count, usual), inner: usual.inner, firstLayer: usual.firstLayer, shared: 1)
    experts.correction = "mlp.gate.e_score_correction_bias"
    return experts
  }

  /// - Parameters:
  ///   - inner, firstLayer, shared: where the configuration is silent, numbers between an expert's projections, the first layer with experts,
  ///     and experts of that size that are one for all tokens
  func expertsWithShared(
    _ layers: Int, _ count: Int, _ rule: RoutingRule, inner: Int, firstLayer: Int, shared: Int
  ) throws -> DecoderExperts {
    let inner = try int("moe_intermediate_size", Limits.width, default: inner)
    let first = try int("first_k_dense_replace", 0...Limits.layers.upperBound, default: firstLayer)
    return DecoderExperts(
      shared: .init(name: "mlp.shared_experts", inner: inner * (try int("n_shared_experts", 1...1 << 10, default: shared))),
      count: count, rule: rule, inner: inner, layers: (0..<layers).map { $0 >= first })
  }

  /// DeepSeek-V3's: sigmoids, corrected where experts are picked, from the groups whose two best are the best.
  private func sigmoidRouting(of count: Int, _ usual: UsualExperts) throws -> RoutingRule {
    try refuse(["scoring_func"], unless: ["sigmoid"])
    try refuse(["topk_method"], unless: ["noaux_tc"])
    var rule = RoutingRule(
      used: try usedExperts(of: count, default: usual.used), addsUp: try flag("norm_topk_prob", default: true))
    rule.scores = .sigmoid
    rule.scale = try routedScale(default: usual.scale)
    rule.isExact = true
    rule.groups = try groups(
      of: count, used: rule.used, counted: 2, groups: int("n_group", 1...count, default: usual.groups),
      usedGroups: int("topk_group", 1...count, default: usual.usedGroups))
    return rule
  }

  /// DeepSeek-V2's: a softmax, of all experts or of those in the groups whose best is the best.
  func softmaxRouting(of count: Int) throws -> RoutingRule {
    try refuse(["scoring_func"], unless: ["softmax"])
    // DeepSeek's own program knows it, transformers does not.
    try refuse(["norm_topk_prob"])
    var rule = RoutingRule(used: try int("num_experts_per_tok", 1...count), addsUp: false)
    rule.scale = try routedScale(default: 1)
    rule.isExact = true
    switch try string("topk_method") ?? "greedy" {
    case "greedy": break
    case "group_limited_greedy":
      rule.groups = try groups(
        of: count, used: rule.used, counted: 1, groups: int("n_group", 1...count), usedGroups: int("topk_group", 1...count))
    case let other: throw fail("\(key: "topk_method") = \(quoted(other)) is not implemented")
    }
    return rule
  }

  private func routedScale(default usual: Double) throws -> Float {
    let scale = Float(try double("routed_scaling_factor", above: 0, default: usual))
    guard scale > 0, scale.isFinite else { throw fail("\(key: "routed_scaling_factor") is no float32 number above 0") }
    return scale
  }

  /// - Throws: where groups do not divide the experts, or those that are used have too few
  private func groups(of count: Int, used: Int, counted: Int, groups: Int, usedGroups: Int) throws -> ExpertGroups {
    guard count % groups == 0, count / groups >= counted else {
      throw fail("\(key: "n_group"): \(count) experts are no \(groups) groups of \(counted) or more")
    }
    guard usedGroups <= groups, used <= usedGroups * (count / groups) else {
      throw fail("\(key: "topk_group"): \(usedGroups) of \(groups) groups of \(count) experts have no \(used) for a token")
    }
    return ExpertGroups(count: groups, used: usedGroups, counted: counted)
  }

  /// A flag that is off where it is null.
  func flag(_ key: String, default fallback: Bool) throws -> Bool {
    self[key] == nil && says(key) ? false : try bool(key, default: fallback)
  }

  /// A pattern for tensors of the layers behind the last, which predict further tokens and which no result depends on; nil for none.
  func predictingLayers(behind layers: Int) throws -> String? {
    let key = self["num_nextn_predict_layers"] == nil ? "num_mtp_layers" : "num_nextn_predict_layers"
    let count = try int(key, 0...64, default: 1)
    guard count > 0 else { return nil }
    return #"^(model\.)?layers\.("# + (layers..<layers + count).map { "\($0)" }.joined(separator: "|") + #")\."#
  }
}

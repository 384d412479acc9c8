/// A feed-forward network among several of a layer.
package struct Expert: Sendable {
  /// [gate, up], one projection of both, or that of a plain MLP.
  package var up: [Linear]
  package var down: Linear

  package init(up: [Linear], down: Linear) { (self.up, self.down) = (up, down) }

  package var linears: [Linear] { up + [down] }
  /// Numbers its first projections give, side by side.
  var upWidth: Int { up.reduce(0) { $0 + $1.outputs } }
}

/// The expert of a layer that every token takes.
package struct SharedExpert: Sendable {
  package var expert: Expert
  /// What the expert gives counts with σ(gate · x); nil for as it is.
  package var gate: Linear?

  package init(_ expert: Expert, gate: Linear? = nil) { (self.expert, self.gate) = (expert, gate) }

  package var linears: [Linear] { expert.linears + (gate.map { [$0] } ?? []) }
}

/// The feed-forward networks of a layer, all of one size, and the router that picks some of them for each token by a rule. The others are
/// not computed. What those that are picked give, each times what it counts with, is added up, and to that what a shared expert gives.
package struct Experts: Sendable {
  package var router: Linear
  package var all: [Expert]
  package var rule: RoutingRule
  /// Added to the scores that experts are picked by, one an expert, and to nothing else: no gradient reaches it.
  package var correction: Vector?
  package var shared: SharedExpert?

  package init(router: Linear, all: [Expert], rule: RoutingRule, correction: Vector? = nil, shared: SharedExpert? = nil) {
    (self.router, self.all, self.rule, self.correction, self.shared) = (router, all, rule, correction, shared)
  }

  /// How many a token takes.
  package var used: Int { rule.used }
  /// The router, and the experts that tokens are routed to.
  package var routed: [Linear] { [router] + all.flatMap(\.linears) }
  package var linears: [Linear] { routed + (shared?.linears ?? []) }
  /// Whether files have the experts of a layer in one parameter for each projection.
  package var areStacked: Bool { all.first.map { $0.up.count == 1 && $0.down.isConv1D } ?? false }
}

/// A feed-forward network among several of a layer.
package struct Expert: Sendable {
  /// [gate, up], one projection of both, or that of a plain MLP.
  package var up: [Linear]
  package var down: Linear

  package init(up: [Linear], down: Linear) { (self.up, self.down) = (up, down) }

  package var linears: [Linear] { up + [down] }
}

/// The feed-forward networks of a layer, all of one size, and the router that picks some of them for each token.
///
/// With p = softmax(router · x) over all experts, in float32, a token x takes the experts of the greatest p. Each counts with its p, or with
/// its part of their sum. The others are not computed.
package struct Experts: Sendable {
  package var router: Linear
  package var all: [Expert]
  /// How many a token takes.
  package var used: Int
  /// Whether what they count with adds up to 1.
  package var addsUp: Bool

  package init(router: Linear, all: [Expert], used: Int, addsUp: Bool) {
    (self.router, self.all, self.used, self.addsUp) = (router, all, used, addsUp)
  }

  package var linears: [Linear] { [router] + all.flatMap(\.linears) }
}

import NibbleCompute
import NibbleCore

/// The experts of one layer, in steps: for work that has to look at what each takes, and to put others in their place.
package struct ExpertSteps {
  private let transformer: Transformer

  package init(_ transformer: Transformer) { self.transformer = transformer }

  package typealias Floats = UnsafeMutablePointer<Float>

  /// A row that an expert takes.
  package struct Pair {
    package var row: Int
    /// What the expert counts with there.
    package var share: Float
  }

  /// Rows that are routed at a time.
  private static let routedRows = 512

  /// Of each expert, the rows of x [rows, width] that the router gives it.
  package func pairs(_ experts: Experts, _ x: Floats, _ rows: Int) -> [[Pair]] {
    var pairs = [[Pair]](repeating: [], count: experts.all.count)
    eachRun(of: rows) { first, count in
      let routing = transformer.routing(experts, operations(count), x + first * transformer.shape.width, rows: 0..<count, nil)
      for expert in experts.all.indices {
        pairs[expert] += routing.pairs(expert).map { Pair(row: first + routing.row($0), share: routing.share($0)) }
      }
    }
    return pairs
  }

  /// All rows of x, each with what a shared expert counts with there.
  package func pairs(_ shared: SharedExpert, _ x: Floats, _ rows: Int) -> [Pair] {
    var shares = [Float](repeating: 1, count: rows)
    if let gate = shared.gate {
      shares.withUnsafeMutableBufferPointer { shares in
        guard let start = shares.baseAddress else { return }
        operations(rows).linear([gate], x, rows: 0..<rows, start)
        LayerKernels.activate(.sigmoid, start, count: rows, start)
      }
    }
    return shares.enumerated().map { Pair(row: $0, share: $1) }
  }

  /// What an expert's last projection takes, [rows, its inputs], of what the expert takes.
  ///
  /// - Parameter scratch: slot 0 is used
  package func inner(_ expert: Expert, _ x: UnsafePointer<Float>, _ rows: Int, into out: Floats, _ scratch: Scratch) {
    let projected = scratch.floatStart(0, rows * expert.upWidth)
    operations(rows).linear(expert.up, x, rows: 0..<rows, projected)
    transformer.activate(projected, rows, inner: expert.down.inputs, out)
  }

  /// What the experts give together, [rows, width].
  ///
  /// - Parameter scratch: slot 0 is used
  package func output(_ experts: Experts, _ x: Floats, _ rows: Int, into out: Floats, _ scratch: Scratch) {
    let width = transformer.shape.width, wide = experts.all.map(\.upWidth).max() ?? 0
    let up = scratch.floatStart(0, Self.routedRows * wide)
    eachRun(of: rows) { first, count in
      transformer.route(
        experts, operations(count), x + first * width, rows: 0..<count, up: up, activated: up, to: out + first * width, nil)
    }
  }

  private func eachRun(of rows: Int, _ body: (_ first: Int, _ count: Int) -> Void) {
    for first in stride(from: 0, to: rows, by: Self.routedRows) { body(first, min(Self.routedRows, rows - first)) }
  }

  /// Operations over rows that belong to no sequence.
  private func operations(_ rows: Int) -> Layers { transformer.operations([rows], [[]], nil) }
}

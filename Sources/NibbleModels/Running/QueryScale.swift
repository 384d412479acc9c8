import Glibc
import NibbleCompute

/// What queries are multiplied with by their positions: 1 + slope · ln(1 + ⌊(position + first) / span⌋), so that long texts do not make
/// attention flat (Llama 4, Ministral 3).
package struct QueryScale: Sendable, Hashable {
  package var slope: Float
  /// Tokens over which it stays the same.
  package var span: Int
  /// What the position of the first token counts as.
  package var first = 0

  package init(slope: Float, span: Int, first: Int = 0) { (self.slope, self.span, self.first) = (slope, span, first) }

  func at(_ position: Int) -> Float { 1 + slope * logf(Float(1 + (position + first) / span)) }
}

extension Transformer {
  /// Multiplies the queries of a layer with what their positions ask for, or gradients of what came of it.
  func scaleQueries(_ index: Int, _ runs: [TokenRun], _ queryKeyValue: Floats) {
    guard shape.queryScales.indices.contains(index), let scale = shape.queryScales[index] else { return }
    var row = 0
    for run in runs {
      let past = run.cache?.count ?? 0
      for token in run.ids.indices {
        let factor = scale.at(past + token)
        if factor != 1 { LayerKernels.scale(queryKeyValue + row * shape.attentionWidth, by: factor, count: shape.queryWidth) }
        row += 1
      }
    }
  }
}

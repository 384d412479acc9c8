import NibbleAdapters
import NibbleCompute
import NibbleCore

/// The operations of a pass, over the rows of one batch.
struct Layers {
  let engine: Engine
  let segments: [Segment]
  /// For sums that adapters scale; grows as needed.
  let scratch: Scratch

  typealias Floats = UnsafeMutablePointer<Float>

  /// Rows handed to a thread at once, for work of `width` numbers a row.
  private func grain(_ width: Int) -> Int { max(1, (1 << 15) / max(width, 1)) }

  /// out = norm(x) for `rows`, `width` numbers a row.
  func norm(_ norm: Norm, _ shape: TransformerShape, _ x: UnsafePointer<Float>, rows: Range<Int>, _ out: Floats) {
    let width = shape.width
    for segment in segments {
      let own = segment.rows.clamped(to: rows)
      guard !own.isEmpty else { continue }
      let weight = segment.vector(norm.weight)
      let bias = norm.bias.map { segment.vector($0) }
      engine.team.split(own.count, grain: grain(width)) { part, _ in
        for row in part {
          let at = (own.lowerBound + row) * width
          if shape.isRMSNorm {
            LayerKernels.rmsNorm(x + at, weight: weight, count: width, epsilon: shape.epsilon, out + at)
          } else {
            LayerKernels.layerNorm(x + at, weight: weight, bias: bias, count: width, epsilon: shape.epsilon, out + at)
          }
        }
      }
    }
  }

  /// The outputs of layers that share their input, side by side in rows of `out`.
  ///
  /// - Parameters:
  ///   - x: the first of `rows`, rows as long as the layers' inputs
  ///   - out: the first of `rows`
  func linear(_ layers: [Linear], _ x: UnsafePointer<Float>, rows: Range<Int>, _ out: Floats) {
    let stride = layers.reduce(0) { $0 + $1.outputs }
    let inputs = layers.first?.inputs ?? 0
    if segments.contains(where: { segment in layers.contains { segment.replaces($0.id) } }) {
      // Matrices differ between rows: each segment by itself.
      for segment in segments {
        let own = segment.rows.clamped(to: rows)
        guard !own.isEmpty else { continue }
        let start = own.lowerBound - rows.lowerBound
        product(layers, [segment], x + start * inputs, rows: own, out + start * stride, stride)
      }
    } else {
      product(layers, segments, x, rows: rows, out, stride)
    }
  }

  private func product(
    _ layers: [Linear], _ segments: [Segment], _ x: UnsafePointer<Float>, rows: Range<Int>, _ out: Floats, _ stride: Int
  ) {
    var products: [Engine.Product] = []
    var column = 0
    for layer in layers {
      var terms: [Engine.LowRankTerm] = []
      for segment in segments {
        let own = segment.rows.clamped(to: rows)
        guard !own.isEmpty else { continue }
        for (term, weight) in segment.terms(layer.id) {
          terms.append(term.lowRank(weight: weight, rows: own.lowerBound - rows.lowerBound..<own.upperBound - rows.lowerBound))
        }
      }
      let matrix = segments.count == 1 ? segments[0].matrix(layer.id, layer.matrix) : layer.matrix
      products.append(Engine.Product(matrix, out + column, stride: stride, terms: terms))
      column += layer.outputs
    }
    engine.multiply(x, rows: rows.count, stride: layers.first?.inputs ?? 0, products)
    column = 0
    for layer in layers {
      for segment in segments {
        finish(layer, segment, rows, out + column, stride)
      }
      column += layer.outputs
    }
  }

  /// What follows the products: DoRA's scales, then biases.
  private func finish(_ layer: Linear, _ segment: Segment, _ rows: Range<Int>, _ out: Floats, _ stride: Int) {
    let own = segment.rows.clamped(to: rows)
    guard !own.isEmpty else { return }
    let terms = segment.terms(layer.id)
    let scales = terms.compactMap { $0.term.outputScale.map { UnsafePointer($0.start) } }
    var biases: [(UnsafePointer<Float>, Float)] = []
    if let bias = layer.bias { biases.append((segment.vector(bias), 1)) }
    for (term, weight) in terms {
      if let bias = term.bias { biases.append((UnsafePointer(bias.start), weight)) }
    }
    guard !scales.isEmpty || !biases.isEmpty else { return }
    engine.team.split(own.count, grain: grain(layer.outputs)) { part, _ in
      for row in part {
        let y = out + (own.lowerBound - rows.lowerBound + row) * stride
        for scale in scales { LayerKernels.multiply(y, by: scale, count: layer.outputs) }
        for (bias, weight) in biases { LayerKernels.add(bias, scaledBy: weight, count: layer.outputs, to: y) }
      }
    }
  }

  /// y += x, row by row.
  func add(_ x: UnsafePointer<Float>, to y: Floats, rows: Int, width: Int) {
    engine.team.split(rows, grain: grain(width)) { part, _ in
      LayerKernels.add(x + part.lowerBound * width, scaledBy: 1, count: part.count * width, to: y + part.lowerBound * width)
    }
  }
}

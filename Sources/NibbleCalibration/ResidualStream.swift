import NibbleCompute
import NibbleModels

/// The residual stream of all tokens of a text, [tokens, width], half a layer after another.
///
/// Attention and MLP of a parallel layer both take what the layer took; it is kept until both are through.
final class ResidualStream {
  private let values: FloatStore
  private let layerInput: FloatStore
  private let width: Int

  init(_ transformer: Transformer, tokens: Int) {
    width = transformer.shape.width
    values = FloatStore(count: tokens * width)
    layerInput = transformer.shape.isParallel ? FloatStore(count: tokens * width) : values
  }

  /// Numbers of it, and of what it keeps, for so many tokens.
  static func size(_ shape: TransformerShape, tokens: Int) -> Int { (shape.isParallel ? 2 : 1) * tokens * shape.width }

  /// The stream from a token on.
  func at(_ token: Int) -> UnsafeMutablePointer<Float> { values.start + token * width }

  /// What half a layer takes, from a token on.
  func taken(by half: HalfLayer, at token: Int) -> UnsafePointer<Float> {
    UnsafePointer((half.takesLayerInput ? layerInput : values).start + token * width)
  }

  /// To be called before half a layer changes the stream.
  func begin(_ half: HalfLayer) {
    guard layerInput !== values, !half.takesLayerInput else { return }
    layerInput.start.update(from: values.start, count: values.count)
  }

  /// Takes another's place.
  func copy(_ other: UnsafePointer<Float>) { values.start.update(from: other, count: values.count) }

  /// What stands in it now.
  var copied: FloatStore {
    let copy = FloatStore(count: values.count)
    copy.start.update(from: values.start, count: values.count)
    return copy
  }
}

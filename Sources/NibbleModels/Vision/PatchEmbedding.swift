import NibbleCompute

/// What makes rows of a transformer's width of an image: one product for each of its patches, behind rows that all images share.
struct PatchEmbedding: Sendable {
  /// What an image has to be like.
  var channels: Int
  var image: (height: Int, width: Int)
  var patch: (height: Int, width: Int)
  /// A convolution whose windows lie side by side.
  var projection: Linear
  /// Rows before the patches: the class token, and that of distillation. [1, width] each
  var tokens: [Embedding]

  private var down: Int { image.height / patch.height }
  private var across: Int { image.width / patch.width }
  var patches: Int { down * across }
  /// Rows of an image.
  var rows: Int { tokens.count + patches }

  /// The patches of an image, [patches, channels × height × width].
  ///
  /// - Parameter x: [channels, height, width]
  func take(_ x: UnsafePointer<Float>, into out: UnsafeMutablePointer<Float>) {
    var to = out
    for place in 0..<patches {
      let corner = place / across * patch.height * image.width + place % across * patch.width
      for channel in 0..<channels {
        for line in 0..<patch.height {
          to.update(from: x + corner + (channel * image.height + line) * image.width, count: patch.width)
          to += patch.width
        }
      }
    }
  }
}

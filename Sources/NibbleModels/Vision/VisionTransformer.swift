import NibbleCompute
import NibbleCore

/// A transformer of images (Dosovitskiy et al., arXiv:2010.11929): the rows of class tokens and patches, with a row of a table of positions
/// added to each, are what it takes for the embeddings of a text.
final class VisionTransformer: Network, @unchecked Sendable {
  /// Its tokens are the positions.
  private let body: Transformer
  private let embedding: PatchEmbedding
  let parts: NetworkParts
  var head: Head

  var engine: Engine { body.engine }
  var exact: Engine { body.exact }
  var scratch: Scratch { body.scratch }
  var width: Int { body.width }

  private typealias Floats = UnsafeMutablePointer<Float>
  private enum Slot { static let embedded = 120, windows = 121, projected = 122 }
  /// What a pass leaves beside what the transformer does.
  private final class Kept { let linear = LinearTape() }

  /// - Parameter weights: their table of tokens is that of positions
  init(_ shape: TransformerShape, _ weights: TransformerWeights, _ embedding: PatchEmbedding, _ engine: Engine) {
    self.embedding = embedding
    body = Transformer(shape, weights, engine)
    head = weights.head
    var parts = weights.parts
    parts.layers.insert(embedding.projection, at: 0)
    (parts.embeddings, parts.looseRows) = ([], embedding.tokens + [weights.tokens])
    self.parts = parts
  }

  func rows(_ batch: Batch) -> [Int] {
    if case .images(let images) = batch { images.map { _ in embedding.rows } } else { [] }
  }

  /// The rows of images as the transformer takes them.
  private func runs(_ images: [ImageRun]) -> [TokenRun] { images.map { TokenRun(Array(0..<embedding.rows), adapters: $0.adapters) } }

  private func part(of tape: Tape) -> Kept { tape.part { Kept() } }

  /// - Throws: `.badInput` for images of another size than the model's
  func hidden(_ batch: Batch, tape: Tape?) throws -> UnsafePointer<Float> {
    let images = try batch.images
    try images.forEach { try check($0.image) }
    let embedded = floats(Slot.embedded, images.count * embedding.rows * width)
    embed(batch, images, to: embedded, tape)
    let runs = runs(images)
    return try body.states(.tokens(runs), runs, tape, adding: UnsafePointer(embedded))
  }

  private func check(_ image: Image) throws {
    let wanted = embedding.image
    guard image.channels == embedding.channels else {
      throw NibbleError.badInput("an image has \(image.channels) channels, the model takes \(embedding.channels)")
    }
    guard image.height == wanted.height, image.width == wanted.width else {
      throw NibbleError.badInput(
        "an image has \(image.width) x \(image.height) pixels, the model takes \(wanted.width) x \(wanted.height); resize images to that "
          + "size in preprocessor_config.json: position embeddings are not interpolated")
    }
  }

  /// - Parameter x: gets the rows without positions, [images × rows, width]
  private func embed(_ batch: Batch, _ images: [ImageRun], to x: Floats, _ tape: Tape?) {
    let (count, rows) = (embedding.patches, embedding.rows)
    let layers = operations(images.map { _ in count }, batch.adapters, tape)
    let projected = floats(Slot.projected, images.count * count * width)
    layers.linear([embedding.projection], windows(images), rows: 0..<images.count * count, projected, tape.map(part)?.linear)
    for segment in layers.segments where !segment.rows.isEmpty {
      for image in segment.rows.lowerBound / count..<segment.rows.upperBound / count {
        let own = x + image * rows * width
        for (index, token) in embedding.tokens.enumerated() { segment.matrix(token.id, token.matrix).lookUp([0], into: own + index * width) }
        (own + embedding.tokens.count * width).update(from: projected + image * count * width, count: count * width)
      }
    }
  }

  /// The patches of all images, [images × patches, channels × height × width].
  private func windows(_ images: [ImageRun]) -> UnsafePointer<Float> {
    let size = embedding.patches * embedding.projection.inputs
    let out = floats(Slot.windows, images.count * size)
    engine.team.run(images.count) { index, _ in
      images[index].image.values.withUnsafeBufferPointer { values in
        if let start = values.baseAddress { embedding.take(start, into: out + index * size) }
      }
    }
    return UnsafePointer(out)
  }

  func backward(_ batch: Batch, _ gradient: UnsafeMutablePointer<Float>, tape: Tape, _ gradients: Gradients) throws {
    let images = try batch.images
    let isTrained = gradients.has(embedding.projection)
    let goesOn = isTrained || embedding.tokens.contains { gradients.matrices[$0.id] != nil }
    try body.backward(.tokens(runs(images)), gradient, tape: tape, gradients, goesOn: goesOn)
    guard goesOn else { return }
    // The gradient is that of the rows with their positions now.
    let (count, rows) = (embedding.patches, embedding.rows)
    for (index, token) in embedding.tokens.enumerated() {
      guard let own = gradients.matrices[token.id] else { continue }
      for image in images.indices { LayerKernels.add(gradient + (image * rows + index) * width, count: width, to: own.start) }
    }
    guard isTrained else { return }
    let dy = floats(Slot.projected, images.count * count * width)
    for image in images.indices {
      (dy + image * count * width).update(from: gradient + (image * rows + embedding.tokens.count) * width, count: count * width)
    }
    operations(images.map { _ in count }, batch.adapters, tape)
      .linearBack([embedding.projection], windows(images), rows: images.count * count, dy, dx: nil, part(of: tape).linear, gradients)
  }

  func room(_ size: PassSize) -> PassRoom {
    var own = size
    own.length = embedding.rows
    var room = body.room(own)
    room.inHand += size.inputs * ((embedding.rows + embedding.patches) * width + embedding.patches * embedding.projection.inputs)
    return room
  }
}

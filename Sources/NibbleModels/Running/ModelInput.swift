import NibbleCore

/// What a model takes: the tokens of a text, or an image.
public enum ModelInput: Sendable, Equatable {
  /// - Parameter types: the segment of each token, of models that tell two texts apart by it: of an encoder and a decoder 0 for what the first
  ///   reads, 1 for what the second writes; nil for all 0
  case tokens([Int], types: [Int]? = nil)
  case image(Image)

  /// Tokens, or positions of the image.
  public var length: Int {
    switch self {
    case .tokens(let ids, _): ids.count
    case .image(let image): image.height * image.width
    }
  }

  /// The tokens; empty for an image.
  public var ids: [Int] { if case .tokens(let ids, _) = self { ids } else { [] } }

  /// The segments of its tokens.
  package var types: [Int]? { if case .tokens(_, let types) = self { types } else { nil } }
}

/// An image as numbers.
public struct Image: Sendable, Equatable {
  public let channels: Int
  public let height: Int
  public let width: Int
  /// [channels, height, width]
  public let values: [Float]

  /// - Throws: `.badInput` unless there are `channels` × `height` × `width` values
  public init(channels: Int, height: Int, width: Int, _ values: [Float]) throws {
    guard [channels, height, width].allSatisfy({ $0 > 0 }), elementCount(of: [channels, height, width]) == values.count else {
      throw NibbleError.badInput("an image of shape [\(channels), \(height), \(width)] with \(values.count) values")
    }
    (self.channels, self.height, self.width, self.values) = (channels, height, width, values)
  }
}

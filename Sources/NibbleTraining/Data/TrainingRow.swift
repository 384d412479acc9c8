import NibbleModels

/// One example: tokens or an image, and what is learned of it.
public struct TrainingRow: Sendable, Equatable {
  public var input: ModelInput
  /// Of language models, one a token, −100 where nothing is learned; the shift happens when the loss is taken. Of models that classify tokens, or
  /// fill masks, one more, in front: what stands behind a token is its class, or the token to be found there. Of an encoder and a decoder one more,
  /// too: what stands behind a token that is written is the next one.
  public var labels: [Int] = []
  /// Of classifiers: one class, or a number a class.
  public var targets: [Double] = []
  /// What hides some of its tokens each time it is learned, of which the labels then are; nil where the row is learned as it is.
  public var masking: TokenMasking?
  /// File and line.
  public var place: String

  /// - Parameter types: the segment of each token of two texts; nil for all 0
  public init(_ ids: [Int], types: [Int]? = nil, labels: [Int] = [], targets: [Double] = [], place: String) {
    (self.input, self.labels, self.targets, self.place) = (.tokens(ids, types: types), labels, targets, place)
  }

  /// An image, for a classifier.
  public init(_ image: Image, targets: [Double], place: String) {
    (self.input, self.targets, self.place) = (.image(image), targets, place)
  }

  /// Its tokens; empty for an image.
  public var ids: [Int] { input.ids }

  /// Its tokens as a pass takes them.
  package var run: TokenRun { TokenRun(ids, types: input.types) }

  /// The label of tokens that are not learned.
  public static let ignored = -100
  /// Tokens that are learned: the first has nothing before it.
  public var learned: Int { labels.dropFirst().reduce(0) { $0 + ($1 == Self.ignored ? 0 : 1) } }
}

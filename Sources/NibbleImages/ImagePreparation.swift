import NibbleCore

/// What makes the numbers a model takes of a picture: resized, cropped, scaled and normalized.
public struct ImagePreparation: Sendable, Equatable {
  /// What a picture is resized to.
  public enum Size: Sendable, Equatable {
    /// Its shorter edge, the other in proportion.
    case shortestEdge(Int)
    case exactly(height: Int, width: Int)
  }

  /// nil for pictures as they are.
  public var size: Size?
  public var resampling = Resampling.bilinear
  /// The middle that is kept, with black around it where the picture is smaller; nil for all.
  public var crop: (height: Int, width: Int)?
  /// What pixels are multiplied by.
  public var scale: Double = 1 / 255
  /// Subtracted after that, and what the rest is divided by, for red, green and blue.
  public var mean = [0.485, 0.456, 0.406]
  public var deviation = [0.229, 0.224, 0.225]

  /// For models that say nothing of it: pictures as they are, with the mean and the deviation of ImageNet's, as torchvision's models
  /// and most for CIFAR-10 were trained.
  public init() {}

  public static func == (a: Self, b: Self) -> Bool {
    a.size == b.size && a.resampling == b.resampling && a.crop?.height == b.crop?.height && a.crop?.width == b.crop?.width
      && a.scale == b.scale && a.mean == b.mean && a.deviation == b.deviation
  }

  /// The numbers of a picture.
  ///
  /// - Returns: [3, height, width]
  /// - Throws: `.badInput` naming `place` for a picture too narrow to be resized
  public func numbers(_ picture: Picture, place: String) throws -> (height: Int, width: Int, values: [Float]) {
    let sized = try resized(picture, place)
    let (height, width) = (crop?.height ?? sized.height, crop?.width ?? sized.width)
    let (top, left) = (Self.start(sized.height, height), Self.start(sized.width, width))
    var values = [Float](repeating: 0, count: 3 * height * width)
    for channel in 0..<3 {
      let (factor, mean, deviation) = (Float(scale), Float(mean[channel]), Float(deviation[channel]))
      // Of every value that a pixel can have.
      let table = (0..<256).map { (Float($0) * factor - mean) / deviation }
      for line in 0..<height {
        let from = line + top, isInside = (0..<sized.height).contains(from)
        for column in 0..<width {
          let across = column + left
          let pixel = isInside && (0..<sized.width).contains(across) ? sized.pixels[(from * sized.width + across) * 3 + channel] : 0
          values[(channel * height + line) * width + column] = table[Int(pixel)]
        }
      }
    }
    return (height, width, values)
  }

  /// What black becomes, for red, green and blue.
  public var black: [Float] { (0..<3).map { (0 - Float(mean[$0])) / Float(deviation[$0]) } }

  /// Where a crop begins: torchvision rounds halves to even numbers, and pads smaller pictures by the lesser half first.
  private static func start(_ length: Int, _ wanted: Int) -> Int {
    length >= wanted ? Int((Double(length - wanted) / 2).rounded(.toNearestOrEven)) : -((wanted - length) / 2)
  }

  private func resized(_ picture: Picture, _ place: String) throws -> Picture {
    switch size {
    case nil: return picture
    case .exactly(let height, let width): return resampling.resize(picture, width: width, height: height)
    case .shortestEdge(let edge):
      let (short, long) = (min(picture.width, picture.height), max(picture.width, picture.height))
      let other = edge * long / short
      guard edge * other <= Picture.maximumPixels else {
        throw NibbleError.badInput("\(path: place): \(picture.width) x \(picture.height) pixels are too narrow to be resized to \(edge)")
      }
      let isUpright = picture.width <= picture.height
      return resampling.resize(picture, width: isUpright ? edge : other, height: isUpright ? other : edge)
    }
  }
}

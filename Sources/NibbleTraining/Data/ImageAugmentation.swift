import NibbleCore
import NibbleModels

/// What training makes of images before it learns them, another thing each time: torchvision's `RandomCrop(size, padding)` and
/// `RandomHorizontalFlip`, on normalized numbers.
public struct ImageAugmentation: Sendable, Equatable {
  /// Whether half of the images are mirrored.
  public var flips = false
  /// Black pixels around an image, of which a part as large as the image is taken at random; 0 for none.
  public var padding = 0
  /// What black is in each channel, normalized; zeros where a channel has none.
  public var black: [Float] = []

  public init() {}

  var isNone: Bool { !flips && padding == 0 }

  /// The image as it is learned at place `place` of the run.
  ///
  /// - Parameter random: by place, so that a run that is resumed goes on alike
  package func applied(to image: Image, _ random: CountedRandom, place: Int) throws -> Image {
    guard !isNone else { return image }
    func drawn(_ number: Int, below count: Int) -> Int { Int(random.uniform(UInt64(place * 3 + number)) * Double(count)) }
    let isFlipped = flips && drawn(0, below: 2) == 1
    let (down, across) = (drawn(1, below: 2 * padding + 1) - padding, drawn(2, below: 2 * padding + 1) - padding)
    let (height, width) = (image.height, image.width)
    var values: [Float] = []
    values.reserveCapacity(image.values.count)
    for channel in 0..<image.channels {
      let black = black.indices.contains(channel) ? black[channel] : 0
      for line in down..<down + height {
        let from = (channel * height + line) * width
        guard (0..<height).contains(line) else {
          values += repeatElement(black, count: width)
          continue
        }
        for place in 0..<width {
          let column = (isFlipped ? width - 1 - place : place) + across
          values.append((0..<width).contains(column) ? image.values[from + column] : black)
        }
      }
    }
    return try Image(channels: image.channels, height: height, width: width, values)
  }
}

import NibbleCompute
import NibbleCore

/// Images between two layers: a row of `channels` numbers for each position, line by line, one image after another.
struct Planes {
  /// Height and width of an image.
  struct Size: Hashable {
    var height: Int
    var width: Int
    var count: Int { height * width }
  }

  var sizes: [Size]
  var channels: Int
  /// [rows, channels]
  var values: FloatStore

  init(_ sizes: [Size], channels: Int) {
    (self.sizes, self.channels) = (sizes, channels)
    values = FloatStore(count: sizes.reduce(0) { $0 + $1.count } * channels)
  }

  /// Positions of all images.
  var rows: Int { sizes.reduce(0) { $0 + $1.count } }
  var start: UnsafeMutablePointer<Float> { values.start }

  /// Where each image begins, in numbers.
  var starts: [Int] {
    var at = 0
    return sizes.map { size in
      defer { at += size.count * channels }
      return at
    }
  }

  /// Images as they come, [channels, height, width] each.
  ///
  /// - Throws: `.badInput` for images with another number of channels
  init(_ images: [Image], channels: Int) throws {
    if let odd = images.first(where: { $0.channels != channels }) {
      throw NibbleError.badInput("an image has \(odd.channels) channels, the model takes \(channels)")
    }
    self.init(images.map { Size(height: $0.height, width: $0.width) }, channels: channels)
    for (image, first) in zip(images, starts) {
      let to = start + first, count = image.height * image.width
      image.values.withUnsafeBufferPointer { from in
        for channel in 0..<channels {
          for place in 0..<count { to[place * channels + channel] = from[channel * count + place] }
        }
      }
    }
  }
}

/// Windows that slide over images of any size.
struct Sliding {
  var window: (height: Int, width: Int)
  var stride: Int
  var padding: Int

  func windows(_ size: Planes.Size, channels: Int) -> Windows {
    Windows(channels: channels, height: size.height, width: size.width, window: window, stride: stride, padding: padding)
  }

  /// What an image of this size becomes.
  func after(_ size: Planes.Size) -> Planes.Size {
    let windows = windows(size, channels: 1)
    return Planes.Size(height: windows.outHeight, width: windows.outWidth)
  }
}

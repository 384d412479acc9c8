import Glibc
import NibbleCore

/// How pixels of one size become those of another: Pillow's filters, by the numbers it gives them, which `resample` of
/// `preprocessor_config.json` uses. All but `nearest` widen where an image shrinks (antialiasing).
public enum Resampling: Int, Sendable, CaseIterable {
  case nearest = 0, lanczos = 1, bilinear = 2, bicubic = 3, box = 4, hamming = 5

  /// How far it reaches from its centre.
  private var reach: Double {
    switch self {
    case .nearest: 0
    case .box: 0.5
    case .bilinear, .hamming: 1
    case .bicubic: 2
    case .lanczos: 3
    }
  }

  private func weight(_ x: Double) -> Double {
    func sinc(_ x: Double) -> Double { x == 0 ? 1 : sin(x * .pi) / (x * .pi) }
    let distance = abs(x)
    switch self {
    case .nearest: return 0
    case .box: return x > -0.5 && x <= 0.5 ? 1 : 0
    case .bilinear: return distance < 1 ? 1 - distance : 0
    case .hamming:
      guard distance > 0 else { return 1 }
      return distance >= 1 ? 0 : sinc(distance) * (0.54 + 0.46 * cos(distance * .pi))
    case .bicubic:
      let a = -0.5
      if distance < 1 { return ((a + 2) * distance - (a + 3)) * distance * distance + 1 }
      return distance < 2 ? (((distance - 5) * distance + 8) * distance - 4) * a : 0
    case .lanczos: return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0
    }
  }

  /// What pixels of one line become a pixel of another, and how much of each, in 2^22ths.
  private struct Tap {
    var first: Int
    var weights: [Int32]
  }

  private static let bits = 22

  /// Pillow's coefficients (`precompute_coeffs` and `normalize_coeffs_8bpc`).
  private func taps(from: Int, to: Int) -> [Tap] {
    let scale = Double(from) / Double(to), spread = max(scale, 1), reach = reach * spread
    return (0..<to).map { place in
      let centre = (Double(place) + 0.5) * scale
      let first = max(0, Int(centre - reach + 0.5)), end = min(from, Int(centre + reach + 0.5))
      let weights = (first..<max(first, end)).map { weight((Double($0) - centre + 0.5) / spread) }
      let sum = weights.reduce(0, +)
      return Tap(
        first: first,
        weights: weights.map { weight in
          let share = (sum == 0 ? weight : weight / sum) * Double(1 << Self.bits)
          return Int32(share < 0 ? share - 0.5 : share + 0.5)
        })
    }
  }

  /// The picture in another size, bit for bit as Pillow's `resize` up to version 12: across, then down, rounded to 8 bits after each.
  /// (Pillow 13 goes down first where that is less work, torch does not.)
  package func resize(_ picture: Picture, width: Int, height: Int) -> Picture {
    if picture.width == width, picture.height == height { return picture }
    if self == .nearest { return nearest(picture, width: width, height: height) }
    var picture = picture
    if picture.width != width {
      let taps = taps(from: picture.width, to: width)
      picture = Picture(width: width, height: picture.height, Self.sum(picture.pixels, lines: picture.height, length: picture.width * 3, step: 3, taps))
    }
    if picture.height != height {
      // Columns are lines whose pixels lie a row apart.
      let row = picture.width * 3, taps = taps(from: picture.height, to: height)
      var pixels = [UInt8](repeating: 0, count: row * height)
      pixels.withUnsafeMutableBufferPointer { out in
        picture.pixels.withUnsafeBufferPointer { x in
          for (line, tap) in taps.enumerated() {
            for column in 0..<row {
              var sum = Int32(1) << (Self.bits - 1)
              for (index, weight) in tap.weights.enumerated() { sum &+= Int32(x[(tap.first + index) * row + column]) &* weight }
              out[line * row + column] = UInt8(clamping: sum >> Self.bits)
            }
          }
        }
      }
      picture = Picture(width: picture.width, height: height, pixels)
    }
    return picture
  }

  /// Every line of pixels, shortened or lengthened.
  private static func sum(_ pixels: [UInt8], lines: Int, length: Int, step: Int, _ taps: [Tap]) -> [UInt8] {
    var out = [UInt8](repeating: 0, count: lines * taps.count * step)
    out.withUnsafeMutableBufferPointer { out in
      pixels.withUnsafeBufferPointer { x in
        for line in 0..<lines {
          for (place, tap) in taps.enumerated() {
            for colour in 0..<step {
              var sum = Int32(1) << (bits - 1)
              for (index, weight) in tap.weights.enumerated() { sum &+= Int32(x[line * length + (tap.first + index) * step + colour]) &* weight }
              out[(line * taps.count + place) * step + colour] = UInt8(clamping: sum >> bits)
            }
          }
        }
      }
    }
    return out
  }

  private func nearest(_ picture: Picture, width: Int, height: Int) -> Picture {
    // Places are summed up, as Pillow does, roundings and all.
    func places(_ from: Int, _ to: Int) -> [Int] {
      let step = Double(from) / Double(to)
      var at = step * 0.5
      return (0..<to).map { _ in
        defer { at += step }
        return min(from - 1, Int(at))
      }
    }
    let columns = places(picture.width, width)
    var pixels: [UInt8] = []
    pixels.reserveCapacity(3 * width * height)
    for line in places(picture.height, height) {
      for column in columns {
        let at = (line * picture.width + column) * 3
        pixels += picture.pixels[at..<at + 3]
      }
    }
    return Picture(width: width, height: height, pixels)
  }
}

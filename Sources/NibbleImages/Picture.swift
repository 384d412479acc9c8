import CNibbleImages
import NibbleCore

/// An image as pixels: red, green and blue, from 0 to 255.
public struct Picture: Sendable, Equatable {
  public let width: Int
  public let height: Int
  /// [height, width, 3]
  public let pixels: [UInt8]

  /// More pixels than an image may have: what is read is bounded before memory is taken.
  package static let maximumPixels = 1 << 26
  /// Bytes that a file of an image may have.
  private static let maximumBytes = 1 << 28

  /// - Parameter pixels: height × width × 3 of them
  package init(width: Int, height: Int, _ pixels: [UInt8]) {
    precondition(pixels.count == 3 * width * height)
    (self.width, self.height, self.pixels) = (width, height, pixels)
  }

  /// Reads a PNG or a JPEG, which its first bytes tell apart, as Pillow's `convert("RGB")` does: grey and palettes become colours,
  /// transparency is left out, and of 16 bits the upper 8 are taken. A note on orientation (EXIF) is not followed, as in torchvision's
  /// `ImageFolder`.
  ///
  /// - Throws: `.badInput` naming the file: what is no image, damaged, cut off or too large
  public init(_ path: String) throws {
    let file = try InputFile(path)
    guard file.size <= Self.maximumBytes else { throw NibbleError.badInput("\(path: path): larger than \(Self.maximumBytes) bytes") }
    try self.init(file.bytes(at: 0, count: file.size), place: path)
  }

  /// - Parameter place: the file that errors name
  package init(_ bytes: [UInt8], place: String) throws {
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: place): \(reason)") }
    let format: String
    let read: (UnsafePointer<UInt8>?, Int, UInt64, UnsafeMutablePointer<nibble_image>?) -> nibble_image_result
    if bytes.starts(with: [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]) {
      (format, read) = ("PNG", nibble_png_read)
    } else if bytes.starts(with: [0xFF, 0xD8, 0xFF]) {
      (format, read) = ("JPEG", nibble_jpeg_read)
    } else {
      throw fail(bytes.isEmpty ? "an empty file" : "neither a PNG nor a JPEG")
    }
    var image = nibble_image()
    let result = bytes.withUnsafeBufferPointer { read($0.baseAddress, $0.count, UInt64(Self.maximumPixels), &image) }
    defer { nibble_image_free(&image) }
    switch result {
    case nibble_image_good: break
    case nibble_image_too_large:
      throw fail("\(image.width) x \(image.height) pixels are more than the \(Self.maximumPixels) an image may have")
    case nibble_image_no_memory: throw fail("there is no memory for its pixels")
    default:
      let said = withUnsafeBytes(of: image.message) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      throw fail("a damaged \(format)" + (said.isEmpty ? "" : ": \(oneLine(said))"))
    }
    guard let pixels = image.pixels else { throw fail("a damaged \(format)") }
    let (width, height) = (Int(image.width), Int(image.height))
    self.init(width: width, height: height, Array(UnsafeBufferPointer(start: pixels, count: 3 * width * height)))
  }
}

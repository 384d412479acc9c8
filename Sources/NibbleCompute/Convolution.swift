import CNibbleKernels
import NibbleQuant

/// A convolution of one image that has its zeros around it, computed without windows in memory. An image is a row of `channels` numbers for each of its positions, line
/// by line. Lengths are the caller's promise.
package struct Convolution: Sendable {
  private let native: nibble_convolution
  private let variant: nibble_variant
  /// Lines of places.
  package let outHeight: Int
  /// Height and width with the zeros.
  private let padded: (height: Int, width: Int)
  private let padding: Int
  private let size: (height: Int, width: Int)

  package typealias Floats = UnsafeMutablePointer<Float>

  /// - Parameter windows: over the image
  package init(_ windows: Windows, outputs: Int, variant: KernelVariant = .current) {
    let own = windows.native
    size = (own.height, own.width)
    padding = own.padding
    padded = (own.height + 2 * own.padding, own.width + 2 * own.padding)
    native = nibble_convolution(
      channels: own.channels, outputs: outputs, window_height: own.window_height, window_width: own.window_width, stride: own.stride,
      padded_width: padded.width, out_width: own.out_width)
    outHeight = own.out_height
    self.variant = variant.native
  }

  /// Numbers of the image with its zeros.
  package var paddedCount: Int { padded.height * padded.width * native.channels }
  /// Numbers of packed weights, and of those for the way back.
  package var packedCount: Int { nibble_convolve_packed(variant, native.outputs, native.channels * taps) }
  package var packedBackCount: Int { nibble_convolve_packed(variant, native.channels, native.outputs * taps) }
  /// Numbers of a line of places.
  package var lineCount: Int { native.out_width * native.outputs }
  private var taps: Int { native.window_height * native.window_width }

  /// - Parameter weights: [outputs, channels, height, width] of the window
  package func pack(_ weights: UnsafePointer<Float>, into packed: Floats) { withNative { nibble_convolve_pack(variant, $0, weights, packed) } }
  package func packBack(_ weights: UnsafePointer<Float>, into packed: Floats) { withNative { nibble_convolve_pack_back(variant, $0, weights, packed) } }

  /// Puts zeros around an image.
  package func pad(_ x: UnsafePointer<Float>, into out: Floats) {
    out.update(repeating: 0, count: paddedCount)
    forEachLine { (out + $1).update(from: x + $0, count: size.width * native.channels) }
  }

  /// Adds what lies within the zeros to an image.
  package func crop(_ x: UnsafePointer<Float>, addingTo out: Floats) {
    forEachLine { LayerKernels.add(x + $1, count: size.width * native.channels, to: out + $0) }
  }

  private func forEachLine(_ body: (_ plain: Int, _ padded: Int) -> Void) {
    for line in 0..<size.height {
      body(line * size.width * native.channels, ((line + padding) * padded.width + padding) * native.channels)
    }
  }

  /// Some lines of places, [places, outputs].
  ///
  /// - Parameters:
  ///   - x: the padded image
  ///   - out: the first of the lines
  package func apply(_ x: UnsafePointer<Float>, _ packed: UnsafePointer<Float>, lines: Range<Int>, to out: Floats) {
    withNative { own in for line in lines { nibble_convolve(variant, own, x, packed, line, out + (line - lines.lowerBound) * lineCount) } }
  }

  /// Adds what dy, the gradient of all places, is for the padded image.
  ///
  /// - Parameter packed: weights for the way back
  package func give(_ dy: UnsafePointer<Float>, _ packed: UnsafePointer<Float>, to dx: Floats) {
    withNative { own in for line in 0..<outHeight { nibble_convolve_give(variant, own, dy + line * lineCount, packed, line, dx) } }
  }

  /// Adds to the packed gradient of the weights.
  package func addGradient(_ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, to packed: Floats) {
    withNative { nibble_convolve_gradient(variant, $0, x, dy, 0, outHeight, packed) }
  }

  /// Adds a packed gradient to that of the weights, [outputs, channels, height, width].
  package func unpack(_ packed: UnsafePointer<Float>, scale: Float, addingTo weights: Floats) {
    withNative { nibble_convolve_unpack(variant, $0, packed, scale, weights) }
  }

  private func withNative<Result>(_ body: (UnsafePointer<nibble_convolution>) -> Result) -> Result { withUnsafePointer(to: native, body) }
}

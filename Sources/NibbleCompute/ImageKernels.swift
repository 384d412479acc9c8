import CNibbleKernels
import NibbleQuant

/// The windows that slide over images of one size. An image is a row of `channels` numbers for each of its positions, line by line.
package struct Windows: Sendable {
  let native: nibble_windows

  /// - Parameters:
  ///   - window: height and width; no larger than the image with its padding
  ///   - padding: zeros beyond each edge
  package init(channels: Int, height: Int, width: Int, window: (height: Int, width: Int), stride: Int, padding: Int) {
    native = nibble_windows(
      channels: channels, height: height, width: width, window_height: window.height, window_width: window.width, stride: stride,
      padding: padding, out_height: (height + 2 * padding - window.height) / stride + 1,
      out_width: (width + 2 * padding - window.width) / stride + 1)
  }

  package var outHeight: Int { native.out_height }
  package var outWidth: Int { native.out_width }
  /// Windows over one image.
  package var count: Int { outHeight * outWidth }
  /// Numbers in a window.
  package var size: Int { native.channels * native.window_height * native.window_width }
  /// Whether windows are the positions themselves.
  package var areRows: Bool { native.window_height * native.window_width == 1 && native.stride == 1 && native.padding == 0 }
}

/// What networks of images do between their matrix products, as functions over memory; lengths are the caller's promise. The one file
/// that calls these kernels.
package enum ImageKernels {
  /// The windows of `lines` of an image, [windows, size].
  package static func take(_ windows: Windows, _ x: UnsafePointer<Float>, lines: Range<Int>, into out: UnsafeMutablePointer<Float>) {
    withUnsafePointer(to: windows.native) { nibble_windows_take($0, x, lines.lowerBound, lines.upperBound, out) }
  }

  /// Adds the numbers of all windows to the places of x that they were taken from.
  package static func give(_ windows: Windows, _ taken: UnsafePointer<Float>, to x: UnsafeMutablePointer<Float>) {
    withUnsafePointer(to: windows.native) { nibble_windows_give($0, taken, x) }
  }

  /// The greatest number of each channel in each window.
  ///
  /// - Parameter from: gets the positions they were at
  package static func greatest(
    _ windows: Windows, _ x: UnsafePointer<Float>, into out: UnsafeMutablePointer<Float>, from: UnsafeMutablePointer<UInt32>? = nil
  ) {
    withUnsafePointer(to: windows.native) { nibble_windows_greatest($0, x, out, from) }
  }

  /// Adds the gradient of the greatest numbers to that of the positions they were at.
  package static func greatestBack(
    _ windows: Windows, _ dy: UnsafePointer<Float>, from: UnsafePointer<UInt32>, to dx: UnsafeMutablePointer<Float>
  ) {
    withUnsafePointer(to: windows.native) { nibble_windows_greatest_back($0, dy, from, dx) }
  }

  /// out = x · scale + shift by channel, and no less than 0 if `isPositive`. `out` may be `x`.
  package static func scale(
    _ x: UnsafePointer<Float>, rows: Int, channels: Int, by scale: UnsafePointer<Float>, shift: UnsafePointer<Float>, isPositive: Bool,
    _ out: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) {
    nibble_channels_scale(variant.native, x, rows, channels, scale, shift, isPositive ? 1 : 0, out)
  }

  /// Adds to the sums of x by channel and, behind them, of x².
  package static func addMoments(_ x: UnsafePointer<Float>, rows: Int, channels: Int, to sums: UnsafeMutablePointer<Double>, variant: KernelVariant = .current) {
    nibble_channels_moments(variant.native, x, rows, channels, sums)
  }

  /// Adds to the sums of dy by channel and, behind them, of dy∘(x − mean) · inverse.
  package static func addMomentsBack(
    _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, rows: Int, channels: Int, mean: UnsafePointer<Float>,
    inverse: UnsafePointer<Float>, to sums: UnsafeMutablePointer<Double>, variant: KernelVariant = .current
  ) {
    nibble_channels_moments_back(variant.native, dy, x, rows, channels, mean, inverse, sums)
  }

  /// out = a∘dy + b∘x + c by channel. `out` may be `dy`.
  package static func combine(
    _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, rows: Int, channels: Int, _ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>,
    _ c: UnsafePointer<Float>, _ out: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) {
    nibble_channels_combine(variant.native, dy, x, rows, channels, a, b, c, out)
  }
}

import CZstd

/// zstd, one independent frame at a time.
package enum Zstd {
  package static let levels = 1...22

  /// Bytes that a frame of `count` plain bytes takes at most.
  package static func bound(_ count: Int) -> Int { ZSTD_compressBound(count) }

  /// Compresses `plain` into one frame at the start of `out`, which holds `bound(plain.count)` bytes.
  ///
  /// - Returns: the length of the frame
  package static func compress(
    _ plain: UnsafeRawBufferPointer, level: Int, into out: UnsafeMutableRawBufferPointer
  ) throws -> Int {
    let length = ZSTD_compress(out.baseAddress, out.count, plain.baseAddress, plain.count, CInt(level))
    guard ZSTD_isError(length) == 0 else { throw NibbleError(.failed, "zstd: \(errorName(length))") }
    return length
  }

  /// Decompresses exactly one frame that must fill `plain` exactly.
  ///
  /// - Returns: nil on success, or what is wrong with the frame
  package static func decompress(
    _ frame: UnsafeRawBufferPointer, into plain: UnsafeMutableRawBufferPointer
  ) -> String? {
    // The library would take several frames, and skip those that hold none of its data.
    guard frame.count >= 4, frame.prefix(4).elementsEqual([0x28, 0xB5, 0x2F, 0xFD]) else { return "no frame" }
    guard ZSTD_findFrameCompressedSize(frame.baseAddress, frame.count) == frame.count else { return "not one frame" }
    let length = ZSTD_decompress(plain.baseAddress, plain.count, frame.baseAddress, frame.count)
    if ZSTD_isError(length) != 0 { return errorName(length) }
    return length == plain.count ? nil : "\(length) bytes instead of \(plain.count)"
  }

  private static func errorName(_ code: Int) -> String { String(cString: ZSTD_getErrorName(code)) }
}

import CNibbleKernels

/// The second stage of double quantization: scales to 8-bit codes around their mean, and back.
package enum ScaleCoder {
  // Made once: 130 kB of tables for the standard map.
  private nonisolated(unsafe) static let tables: UnsafePointer<nibble_scale_tables> = {
    let tables = UnsafeMutablePointer<nibble_scale_tables>.allocate(capacity: 1)
    Codebook.dynamic.values.withUnsafeBufferPointer { map in
      if let map = map.baseAddress { nibble_make_scale_tables(map, tables) }
    }
    return UnsafePointer(tables)
  }()

  /// The mean of the scales: their float64 sum in block order, divided, rounded to float32.
  package static func offset(of absmax: UnsafeBufferPointer<Float>) -> Float {
    guard let base = absmax.baseAddress, absmax.count > 0 else { return 0 }
    return Float(nibble_sum(base, absmax.count) / Double(absmax.count))
  }

  /// Codes `absmax` with the standard map.
  ///
  /// - Parameters:
  ///   - codes: one byte a scale
  ///   - nestedAbsmax: one float for `blockSize` scales
  package static func encode(
    _ absmax: UnsafeBufferPointer<Float>, offset: Float, blockSize: Int = 256, _ rules: EncodingRules,
    codes: UnsafeMutablePointer<UInt8>, nestedAbsmax: UnsafeMutablePointer<Float>
  ) {
    guard let base = absmax.baseAddress else { return }
    nibble_encode_scale_codes(tables, rules.native, base, absmax.count, offset, blockSize, codes, nestedAbsmax)
  }

  /// absmax = fl(fl(map[code] · nested absmax) + offset).
  package static func decode(
    _ codes: UnsafeBufferPointer<UInt8>, map: Codebook, nestedAbsmax: UnsafePointer<Float>, blockSize: Int,
    offset: Float, absmax: UnsafeMutablePointer<Float>
  ) {
    guard let base = codes.baseAddress else { return }
    map.values.withUnsafeBufferPointer { values in
      guard let values = values.baseAddress else { return }
      nibble_decode_scale_codes(values, base, codes.count, nestedAbsmax, blockSize, offset, absmax)
    }
  }
}

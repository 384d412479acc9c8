import CNibbleKernels
import NibbleCore

/// One signed byte an element and the greatest magnitude of each row, as bitsandbytes' LLM.int8 stores weights: they pass through
/// float16, code = round(x · (1 / absmax · 127)), and x ≈ code · absmax · (1 / 127).
package enum RowCodec {
  /// Elements that are widened at a time.
  private static let piece = 1024

  /// Rounds values to float16, as bitsandbytes does before it looks at them.
  ///
  /// - Parameter half: room for as many
  package static func throughHalf(_ values: UnsafeMutablePointer<Float>, _ count: Int, _ half: UnsafeMutableRawPointer) {
    Kernels.narrow(.f16, values, count: count, half)
    Kernels.widen(.f16, half, count: count, values)
  }

  /// The scale of a row.
  package static func absmax(_ row: UnsafePointer<Float>, _ count: Int) -> Float { nibble_row_absmax(row, count) }

  /// The codes of a row.
  package static func encode(_ row: UnsafePointer<Float>, _ count: Int, scale: Float, _ codes: UnsafeMutablePointer<Int8>) {
    nibble_row_encode(row, count, scale, codes)
  }

  /// The values of elements `from..<from + count` of a matrix, whose codes these are.
  ///
  /// - Parameter scales: of all its rows
  package static func decode(
    _ codes: UnsafePointer<Int8>, from start: Int, count: Int, columns: Int, scales: UnsafePointer<Float>, _ dtype: DType,
    _ out: UnsafeMutableRawPointer
  ) {
    withUnsafeTemporaryAllocation(of: Float.self, capacity: piece) { buffer in
      guard let values = buffer.baseAddress, columns > 0 else { return }
      var done = 0
      while done < count {
        let (row, column) = (start + done).quotientAndRemainder(dividingBy: columns)
        let width = min(columns - column, count - done, piece)
        let to = out + done * (dtype.bitWidth / 8)
        if dtype == .f32 {
          nibble_row_decode(codes + done, width, scales[row], to.assumingMemoryBound(to: Float.self))
        } else {
          nibble_row_decode(codes + done, width, scales[row], values)
          Kernels.narrow(dtype, values, count: width, to)
        }
        done += width
      }
    }
  }
}

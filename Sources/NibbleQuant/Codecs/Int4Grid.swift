import NibbleCore

extension Int4Groups {
  /// A scale and a zero or an offset as they are stored.
  package struct Grid {
    package var scale: Float
    package var zero: Float
  }

  /// The zero of symmetric groups.
  package static let middle: Float = 8

  /// The grid of a range: σ = (high − low) / 15 and z = −low / σ or m = low, or σ = max(−low, high) / 7.5 where z is 8.
  ///
  /// - Parameter roundsZero: whether z is a whole number even where it need not be, as references have it
  package func grid(_ low: Float, _ high: Float, roundsZero: Bool) -> Grid {
    let scale = stored(scale: zero == .none ? max(-low, high) / 7.5 : (high - low) / 15)
    if zero == .offset { return Grid(scale: scale, zero: stored(zero: low)) }
    guard zero != .none, scale > 0 else { return Grid(scale: scale, zero: Self.middle) }
    let z = -low / scale
    return Grid(scale: scale, zero: stored(zero: roundsZero || zero == .int ? z.rounded(.toNearestOrEven) : z))
  }

  /// A scale as a reader restores it.
  package func stored(scale value: Float) -> Float { Self.through(scale, value) }

  /// A zero or an offset as a reader restores it.
  package func stored(zero value: Float) -> Float {
    if zero == .offset { return stored(scale: value) }
    // NaN becomes 0.
    let inside = value > 0 ? min(value, 15) : 0
    return zero == .half ? Self.through(.f16, inside) : inside
  }

  private static func through(_ dtype: DType, _ value: Float) -> Float {
    guard dtype != .f32 else { return value }
    var value = value
    var half: UInt16 = 0
    Kernels.narrow(dtype, &value, count: 1, &half)
    Kernels.widen(dtype, &half, count: 1, &value)
    return value
  }

  /// Writes scales as they are stored.
  func store(scales values: UnsafePointer<Float>, count: Int, _ out: UnsafeMutableRawBufferPointer) {
    if let start = out.baseAddress { Kernels.narrow(scale, values, count: count, start) }
  }

  /// Writes zeros or offsets as they are stored; nothing where they are not.
  func store(zeros values: UnsafePointer<Float>, count: Int, _ out: UnsafeMutableRawBufferPointer) {
    guard let dtype = zero.dtype(scale), let start = out.baseAddress else { return }
    if dtype == .u8 {
      for group in 0..<count { out[group] = UInt8(values[group]) }
    } else {
      Kernels.narrow(dtype, values, count: count, start)
    }
  }

  /// The sections behind the codes.
  package func sections(scales: UnsafeBufferPointer<Float>, zeros: UnsafeBufferPointer<Float>?) -> [[UInt8]] {
    func section(_ dtype: DType, _ body: (UnsafeMutableRawBufferPointer) -> Void) -> [UInt8] {
      var bytes = [UInt8](repeating: 0, count: scales.count * dtype.bitWidth / 8)
      bytes.withUnsafeMutableBytes(body)
      return bytes
    }
    guard let from = scales.baseAddress else { return [] }
    let own = section(scale) { store(scales: from, count: scales.count, $0) }
    guard let dtype = zero.dtype(scale), let z = zeros?.baseAddress else { return [own] }
    return [own, section(dtype) { store(zeros: z, count: scales.count, $0) }]
  }
}

import NibbleCore
import NibbleQuant

/// A task for an encoder outside any job.
func encodingTask(
  _ shape: [Int], _ search: ScaleSearch = .absmax, offsets: OffsetSearch = OffsetSearch(), threads: Int = 1
) -> EncodingTask {
  EncodingTask(
    .f32, shape, place: "test", rules: .nearest, search: search, offsets: offsets, threads: threads, pool: ScratchPool(), measures: true,
    memory: Scratch())
}

func encoded(_ codec: any WeightCodec, _ values: [Float], _ task: EncodingTask) throws -> DecidedCodes {
  let store = UnsafeMutablePointer<Float>.allocate(capacity: values.count)
  defer { store.deallocate() }
  store.update(from: values, count: values.count)
  return try codec.encoded(store, task)
}

/// What codes stand for, decoded in two runs, the second from the middle of the tensor.
func decoded(_ codes: DecidedCodes, _ shape: [Int], as dtype: DType = .f32) -> [Float] {
  let memory = Scratch(), count = shape.reduce(1, *), bytes = dtype.bitWidth / 8
  let decoder = codes.codec.decoder(dtype, shape, Array(codes.sections.dropFirst()), memory)
  let raw = UnsafeMutableRawPointer.allocate(byteCount: 4 * count, alignment: 64)
  defer { raw.deallocate() }
  return withExtendedLifetime(memory) {
    codes.sections[0].withUnsafeBytes { from in
      guard let from = from.baseAddress else { return }
      let half = count / 2 / decoder.grain * decoder.grain
      decoder.decode(from, 0, half, dtype, raw)
      decoder.decode(from + decoder.codes(half, count - half).lowerBound, half, count - half, dtype, raw + half * bytes)
    }
    return [Float](unsafeUninitializedCapacity: count) { buffer, filled in
      if let out = buffer.baseAddress { Kernels.widen(dtype, raw, count: count, out) }
      filled = count
    }
  }
}

/// ‖a − b‖ / ‖a‖
func relativeError(_ a: [Float], _ b: [Float]) -> Double {
  let difference = zip(a, b).reduce(0.0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) }
  return (difference / a.reduce(0.0) { $0 + Double($1) * Double($1) }).squareRoot()
}

func floats(_ bytes: [UInt8]) -> [Float] {
  bytes.withUnsafeBytes { raw in (0..<raw.count / 4).map { raw.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) } }
}

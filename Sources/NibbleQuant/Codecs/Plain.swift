import NibbleCore

extension CodecKind {
  /// Elements as they are.
  public static let plain = CodecKind(
    number: 0, name: "plain", isPlain: true, make: { _ in Plain() },
    read: { $0.input.isAtEnd ? Plain() : nil })
}

extension WeightEncoding {
  /// One element after another, in the tensor's own type.
  public static let plain = WeightEncoding(Plain())
}

/// Elements one after another, in the tensor's own type.
public struct Plain: WeightCodec {
  package var kind: CodecKind { .plain }

  /// Nothing to say.
  public init() {}

  package func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength] {
    [(.data, dtype.byteCount(of: elementCount(of: shape) ?? 0) ?? 0)]
  }

  package func encoder(_ task: EncodingTask) -> any TensorEncoder { PlainEncoder(task.dtype, measures: task.measures) }

  package func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder {
    PlainDecoder(dtype)
  }

  package func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory { CodecMemory(perThread: 0, perTensor: 0) }
}

/// Elements of one type into another: widened to float32, rounded once.
private final class PlainEncoder: TensorEncoder {
  private let dtype: DType
  private let measures: Bool

  init(_ dtype: DType, measures: Bool) { (self.dtype, self.measures) = (dtype, measures) }

  var preferredType: DType { dtype }

  func encode(
    _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
    let count = elements.count
    var sums = EncodedSums()
    var written = UnsafeRawPointer(elements.x)
    if elements.dtype != dtype {
      var values = elements.x.assumingMemoryBound(to: Float.self)
      if elements.dtype != .f32 {
        values = scratch.floatStart(CodecSlot.wide, count)
        Kernels.widen(elements.dtype, elements.x, count: count, values)
      }
      let out = scratch.start(CodecSlot.codes, count * dtype.bitWidth / 8)
      Kernels.narrow(dtype, values, count: count, out)
      written = UnsafeRawPointer(out)
      if measures {
        let after = scratch.floatStart(CodecSlot.right, count)
        Kernels.widen(dtype, written, count: count, after)
        var difference = Difference()
        if elements.dtype == .f64 {
          // Seen from float32, rounding to float32 would cost nothing.
          difference.add(doubles: elements.x, after, count: count)
        } else {
          difference.add(values, after, count: count)
        }
        (sums.error, sums.signal) = (difference.squaredDifference, difference.squaredA)
      }
    }
    if let restored { Kernels.widen(dtype, written, count: count, restored) }
    sums.counts.nonfinite = Kernels.countNonfinite(dtype, written, count: count)
    return (UnsafeRawBufferPointer(start: written, count: count * dtype.bitWidth / 8), sums)
  }

  func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
    guard dtype != .f32 else { return }
    let narrow = scratch.start(CodecSlot.half, count * dtype.bitWidth / 8)
    Kernels.narrow(dtype, values, count: count, narrow)
    Kernels.widen(dtype, narrow, count: count, values)
  }
}

private final class PlainDecoder: TensorDecoder {
  private let dtype: DType

  init(_ dtype: DType) { self.dtype = dtype }

  func codes(_ start: Int, _ count: Int) -> Range<Int> {
    let width = dtype.bitWidth / 8
    return start * width..<(start + count) * width
  }

  func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    if dtype == self.dtype { return out.copyMemory(from: codes, byteCount: count * dtype.bitWidth / 8) }
    if dtype == .f32 { return Kernels.widen(self.dtype, codes, count: count, out.assumingMemoryBound(to: Float.self)) }
    inPieces(of: count) { values, done, width in
      Kernels.widen(self.dtype, codes + done * (self.dtype.bitWidth / 8), count: width, values)
      Kernels.narrow(dtype, values, count: width, out + done * (dtype.bitWidth / 8))
    }
  }
}

/// Hands out a few floats again and again, for conversions that go through float32.
func inPieces(of count: Int, _ body: (_ values: UnsafeMutablePointer<Float>, _ done: Int, _ width: Int) -> Void) {
  let most = 1024
  withUnsafeTemporaryAllocation(of: Float.self, capacity: most) { buffer in
    guard let values = buffer.baseAddress else { return }
    for done in stride(from: 0, to: count, by: most) { body(values, done, min(most, count - done)) }
  }
}

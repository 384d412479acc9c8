import CNibbleKernels
import NibbleCore

extension CodecKind {
  /// Signed bytes with a scale a row.
  public static let int8 = CodecKind(
    number: 3, name: "int8", make: { _ in Int8Rows() }, read: { $0.input.isAtEnd ? Int8Rows() : nil })
}

extension WeightEncoding {
  /// A matrix as signed bytes, each row with its greatest magnitude: bitsandbytes' LLM.int8.
  public static let int8 = WeightEncoding(Int8Rows())
}

/// One signed byte an element and the greatest magnitude of each row, as bitsandbytes' LLM.int8 stores weights: they pass through
/// float16, code = round(x · (1 / absmax · 127)), and x ≈ code · absmax · (1 / 127).
public struct Int8Rows: WeightCodec {
  package var kind: CodecKind { .int8 }
  public var summary: String { "int8, a scale a row" }

  /// No parameters.
  public init() {}

  // Scales of rows without elements would be as many as a file likes to say.
  package func refusal(_ dtype: DType, _ shape: [Int]) -> String? {
    shape.count == 2 && elementCount(of: shape) ?? 0 > 0 ? nil : "it is no matrix"
  }

  package func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength] {
    [(.codes, elementCount(of: shape) ?? 0), (.scales, 4 * (shape.first ?? 0))]
  }

  package var lossReach: String? { "values in rows where one is NaN, infinite or beyond what fp16 holds" }

  // Chunks are whole rows, of any length.
  package var fillsFrames: Bool { false }

  package func encoder(_ task: EncodingTask) -> any TensorEncoder { RowEncoder(task) }

  package func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder {
    RowDecoder(columns: shape.last ?? 0, scales: sections[0], memory)
  }

  package func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory {
    let rows = shape.first ?? 0
    if case .changing = work { return CodecMemory(perThread: 0, perTensor: 12 * rows) }
    return CodecMemory(perThread: max(min(elementCount(of: shape) ?? 0, chunk), shape.last ?? 0) * 16, perTensor: 8 * rows)
  }
}

/// Rows of elements into bytes. A row is encoded whole, so what a reader sees of it is known at once.
private final class RowEncoder: TensorEncoder, @unchecked Sendable {
  private let columns: Int
  private let rows: Int
  private let scales: UnsafeMutablePointer<Float>

  init(_ task: EncodingTask) {
    (rows, columns) = (task.shape.first ?? 0, task.shape.last ?? 0)
    scales = task.memory.floatStart(0, max(rows, 1))
  }

  var grain: Int { max(columns, 1) }

  func encode(
    _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
    let count = elements.count
    let codes = scratch.start(CodecSlot.codes, count).assumingMemoryBound(to: Int8.self)
    let values = restored ?? scratch.floatStart(CodecSlot.right, count)
    Kernels.widen(elements.dtype, elements.x, count: count, values)
    let wanted = scratch.floatStart(CodecSlot.wide, count)
    wanted.update(from: values, count: count)
    var sums = EncodedSums()
    sums.counts.nonfinite = round(values, count, scales + elements.start / grain, codes, scratch)
    if sums.counts.nonfinite > 0 {
      sums.counts.finiteLost = (0..<count).reduce(0) { $0 + (wanted[$1].isFinite && !values[$1].isFinite ? 1 : 0) }
    }
    var difference = Difference()
    difference.add(wanted, values, count: count)
    (sums.error, sums.signal) = (difference.squaredDifference, difference.squaredA)
    return (UnsafeRawBufferPointer(start: codes, count: count), sums)
  }

  func finish(_ sums: inout EncodedSums) throws -> [UnsafeRawBufferPointer] {
    [UnsafeRawBufferPointer(start: scales, count: 4 * rows)]
  }

  func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
    let codes = scratch.start(CodecSlot.codes, count).assumingMemoryBound(to: Int8.self)
    round(values, count, scratch.floatStart(CodecSlot.absmax, max(1, count / grain)), codes, scratch)
  }

  /// Whole rows into codes and back.
  ///
  /// - Returns: values that come back as none that is finite: one of them takes its whole row along
  @discardableResult
  private func round(
    _ values: UnsafeMutablePointer<Float>, _ count: Int, _ scales: UnsafeMutablePointer<Float>,
    _ codes: UnsafeMutablePointer<Int8>, _ scratch: Scratch
  ) -> Int {
    RowCodec.throughHalf(values, count, scratch.start(CodecSlot.half, 2 * count))
    for row in 0..<count / grain {
      let at = values + row * columns
      scales[row] = RowCodec.absmax(at, columns)
      RowCodec.encode(at, columns, scale: scales[row], codes + row * columns)
    }
    RowCodec.decode(codes, from: 0, count: count, columns: columns, scales: scales, .f32, values)
    return Kernels.countNonfinite(.f32, values, count: count)
  }
}

/// The scales of a matrix in rows of bytes.
private final class RowDecoder: TensorDecoder, @unchecked Sendable {
  private let columns: Int
  private let scales: UnsafeMutableBufferPointer<Float>

  init(columns: Int, scales bytes: [UInt8], _ memory: Scratch) {
    self.columns = columns
    scales = memory.floats(0, bytes.count / 4)
    UnsafeMutableRawBufferPointer(scales).copyBytes(from: bytes)
  }

  func codes(_ start: Int, _ count: Int) -> Range<Int> { start..<start + count }

  func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    guard let scales = scales.baseAddress else { return }
    RowCodec.decode(
      codes.assumingMemoryBound(to: Int8.self), from: start, count: count, columns: columns, scales: scales, dtype, out)
  }
}

/// The arithmetic of rows, as functions over memory.
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

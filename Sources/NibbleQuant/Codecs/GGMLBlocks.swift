import CNibbleKernels
import NibbleCore

extension GGMLType {
  /// The kernels' name for it.
  package var native: nibble_ggml { nibble_ggml(UInt32(number)) }

  /// Its line in the list of codecs. GGUF files alone hold it.
  package var kind: CodecKind {
    CodecKind(number: UInt16(256 + number), name: name, isOfGguf: true, make: { _ in GGMLBlocks(self) }, read: { _ in nil })
  }
}

/// The blocks of ggml: a few elements with their scales beside their codes, one block after another.
///
/// Codes are those of ggml's own quantizers, with an importance matrix and without, bit for bit, and so are the elements they decode to.
public struct GGMLBlocks: WeightCodec {
  /// Which blocks.
  public let type: GGMLType

  /// - Parameter type: one that is not plain
  public init(_ type: GGMLType) { self.type = type }

  package var kind: CodecKind { type.kind }
  package var description: [(key: String, value: JSON)] { [("block_size", JSON(type.blockElements))] }

  package func refusal(_ dtype: DType, _ shape: [Int]) -> String? {
    guard let columns = shape.last, elementCount(of: shape) ?? 0 > 0 else { return "it has no elements" }
    guard columns % type.blockElements == 0 else {
      let others = GGMLType.all.filter { columns % $0.blockElements == 0 }.map(\.name).joined(separator: ", ")
      return "its rows of \(columns) are no multiple of \(type.blockElements); \(others) can hold them"
    }
    return type.byteCount(shape) == nil ? "it is too large" : nil
  }

  package func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength] { [(.codes, type.byteCount(shape) ?? 0)] }

  package func writeIdentity(_ out: inout ByteWriter) {}

  package var lossReach: String? { "values in blocks of \(type.blockElements) where one is NaN, infinite or beyond what the scales hold" }
  package var fillsFrames: Bool { false }
  package var takesImportance: Bool { type != .q8_0 && type != .mxfp4 }

  /// Columns of which a scale is searched for.
  private var group: Int { [.q2_k, .q3_k, .q6_k].contains(type) ? 16 : 32 }

  /// Exponents of the greatest importance that products with weights, and their squares, go well with.
  private static let exponents: ClosedRange<Float.Exponent> = -32...32
  /// The smallest importance that counts: products with less come to 0.
  private static let smallest = Float(sign: .plus, exponent: -96, significand: 1)

  /// The importance of columns as ggml's quantizers take it. Only ratios matter to them, so numbers that are too large or small for their sums
  /// are multiplied by a power of two. A scale whose columns all have none would be 0, and with it their weights: there they count as much as the
  /// column that counts least.
  ///
  /// - Returns: nil where no column counts; else the numbers, and how many were 0, or next to it, with all of their group
  package func usable(_ importance: [Float]) -> (numbers: [Float], mended: Int)? {
    guard takesImportance, let greatest = importance.max(), greatest > 0, greatest.isFinite else { return nil }
    var (numbers, mended) = (importance, 0)
    if !Self.exponents.contains(greatest.exponent) {
      for place in numbers.indices { numbers[place] = Float(sign: .plus, exponent: -greatest.exponent, significand: numbers[place]) }
    }
    guard let least = numbers.lazy.filter({ $0 >= Self.smallest }).min() else { return nil }
    for start in stride(from: 0, to: numbers.count, by: group) {
      let places = start..<min(start + group, numbers.count)
      guard numbers[places].allSatisfy({ $0 < Self.smallest }) else { continue }
      for place in places { numbers[place] = least }
      mended += places.count
    }
    return (numbers, mended)
  }

  package func encoder(_ task: EncodingTask) -> any TensorEncoder {
    var task = task
    task.importance = task.importance.flatMap { usable($0)?.numbers }
    return GGMLEncoder(type, task)
  }

  package func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder { GGMLDecoder(type) }

  package func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory {
    if case .changing = work { return CodecMemory(perThread: 0, perTensor: 0) }
    return CodecMemory(perThread: min(elementCount(of: shape) ?? 0, chunk) * 13, perTensor: 0)
  }
}

/// Elements into blocks. A block is encoded whole, so what a reader sees of it is known at once.
private final class GGMLEncoder: TensorEncoder {
  private let type: GGMLType
  private let measures: Bool
  /// Groups whose codes stay what they are.
  private let kept: KeptGroups?
  /// How much each column of each matrix counts.
  private let importance: [Float]?
  private let columns: Int
  /// Elements of a matrix.
  private let matrix: Int

  init(_ type: GGMLType, _ task: EncodingTask) {
    (self.type, measures, importance) = (type, task.measures, task.importance)
    let width = max(1, task.shape.last ?? 1)
    columns = width
    matrix = task.importance.map { task.count / max(1, $0.count / width) } ?? task.count
    kept = task.keepsSource ? (task.source as? Int4Decoder).flatMap { KeptGroups($0, type, count: task.count) } : nil
  }

  /// With an importance rows stay whole: ggml's weights are made of what a whole row holds.
  var grain: Int { importance == nil ? type.blockElements : columns }

  private func blocks(
    _ x: UnsafePointer<Float>, start: Int, count: Int, _ out: UnsafeMutableRawPointer
  ) -> EncodeCounts {
    guard let importance else { return Kernels.encode(type, x, count: count, out) }
    var counts = EncodeCounts(), done = 0
    while done < count {
      let place = (start + done) / matrix, part = min(count - done, (place + 1) * matrix - start - done)
      importance.withUnsafeBufferPointer { all in
        let own = UnsafeBufferPointer(rebasing: all[place * columns..<(place + 1) * columns])
        counts += Kernels.encode(type, x + done, count: part, importance: own, out + done / type.blockElements * type.blockBytes)
      }
      done += part
    }
    return counts
  }

  func encode(
    _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
    let count = elements.count
    let wanted = scratch.floatStart(CodecSlot.wide, count)
    Kernels.widen(elements.dtype, elements.x, count: count, wanted)
    let codes = scratch.bytes(CodecSlot.codes, count / type.blockElements * type.blockBytes)
    var sums = EncodedSums()
    guard let start = codes.baseAddress else { return (UnsafeRawBufferPointer(codes), sums) }
    if let kept {
      kept.encode(wanted, start: elements.start, count: count, start)
      sums.counts.nonfinite = Kernels.countNonfinite(.f32, wanted, count: count)
    } else {
      sums.counts = blocks(wanted, start: elements.start, count: count, start)
    }
    guard measures || restored != nil else { return (UnsafeRawBufferPointer(codes), sums) }
    let found = restored ?? scratch.floatStart(CodecSlot.right, count)
    Kernels.decode(type, start, from: 0, count: count, .f32, found)
    var difference = Difference()
    difference.add(wanted, found, count: count)
    (sums.error, sums.signal) = (difference.squaredDifference, difference.squaredA)
    return (UnsafeRawBufferPointer(codes), sums)
  }

  func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
    let codes = scratch.start(CodecSlot.codes, count / type.blockElements * type.blockBytes)
    _ = blocks(values, start: start, count: count, codes)
    Kernels.decode(type, codes, from: 0, count: count, .f32, values)
  }
}

private final class GGMLDecoder: TensorDecoder {
  private let type: GGMLType

  init(_ type: GGMLType) { self.type = type }

  var grain: Int { type.blockElements }

  /// Whole blocks: `start` is a multiple of their length.
  func codes(_ start: Int, _ count: Int) -> Range<Int> {
    let first = start / type.blockElements, end = first + ceilDivide(count, type.blockElements)
    return first * type.blockBytes..<end * type.blockBytes
  }

  func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    Kernels.decode(type, codes, from: start % type.blockElements, count: count, dtype, out)
  }
}

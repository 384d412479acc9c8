import NibbleCore

extension CodecKind {
  /// Whole numbers of 4 bits in groups along the inputs.
  public static let int4 = CodecKind(
    number: 4, name: "int4", hasGroups: true,
    make: { Int4Groups(size: $0.groupSize, scale: $0.scale, zero: $0.zeros) }, read: { try Int4Groups.read(&$0) })
}

/// 4-bit whole numbers in groups along the rows of a matrix: element = σ · (q − z), q from 0 to 15, with a scale σ and a zero z a
/// group, or σ · q + m with an offset m. Symmetric groups have z = 8.
///
/// This is what GPTQ, AWQ, compressed-tensors and MLX store, in orders of their own. Zeros that are numbers may be moved without
/// touching a code, which is how QA-LoRA merges.
public struct Int4Groups: WeightCodec {
  /// How zeros are stored.
  public enum Zero: String, Hashable, Sendable, CaseIterable {
    /// Not at all: they are 8.
    case none
    /// As whole numbers from 0 to 15.
    case int
    /// As float16.
    case half = "float16"
    /// As float32.
    case float = "float32"
    /// As the number that a code of 0 stands for, of the type of the scales.
    case offset

    /// The type they are stored in.
    func dtype(_ scale: DType) -> DType? {
      switch self {
      case .none: nil
      case .int: .u8
      case .half: .f16
      case .float: .f32
      case .offset: scale
      }
    }

    /// What stands for it in tables and identities.
    var code: UInt8 {
      switch self {
      case .none: 0xFF
      case .offset: 0xFE
      case .int, .half, .float: dtype(.f32)?.tableCode ?? 0xFF
      }
    }
  }

  /// Elements of a group; 0 for a whole row.
  public var size: Int
  /// The type of scales: F16, BF16 or F32.
  public var scale: DType
  public var zero: Zero

  /// The group sizes there are, beside whole rows.
  public static let sizes = [32, 64, 128, 256]
  /// Reads a size, or `row`.
  public static func size(_ text: String) -> Int? {
    text == "row" ? 0 : Int(text).flatMap { sizes.contains($0) ? $0 : nil }
  }

  public init(size: Int = 64, scale: DType = .f16, zero: Zero = .half) {
    (self.size, self.scale, self.zero) = (size, scale, zero)
  }

  package var kind: CodecKind { .int4 }
  public var summary: String {
    "int4, \(size == 0 ? "one group per row" : "groups of \(size)"), "
      + (zero == .none ? "symmetric" : zero == .offset ? "offsets" : "zero points of \(zero.rawValue)")
  }
  package var description: [(key: String, value: JSON)] {
    [("group_size", JSON(size)), ("scales", JSON(scale.rawValue)), ("zeros", JSON(zero.rawValue))]
  }

  /// Elements of a group of a matrix with so many columns.
  package func length(columns: Int) -> Int { size == 0 ? max(columns, 1) : size }
  package func movedLength(columns: Int) -> Int { length(columns: columns) }
  /// Groups of a tensor.
  package func groups(_ shape: [Int]) -> Int { (elementCount(of: shape) ?? 0) / length(columns: shape.last ?? 0) }

  package func refusal(_ dtype: DType, _ shape: [Int]) -> String? {
    guard shape.count == 2, elementCount(of: shape) ?? 0 > 0 else { return "it is no matrix" }
    let columns = shape[1]
    guard columns % 2 == 0 else { return "its rows of \(columns) are of odd length" }
    guard columns % length(columns: columns) == 0 else {
      return "its rows of \(columns) are no multiple of the group size \(size)"
    }
    return nil
  }

  package func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength] {
    let groups = groups(shape)
    let kind = zero == .offset ? SectionKind.offsets : .zeros
    let zeros: [SectionLength] = zero.dtype(scale).map { [(kind, groups * $0.bitWidth / 8)] } ?? []
    return [(.codes, (elementCount(of: shape) ?? 0) / 2), (.groupScales, groups * scale.bitWidth / 8)] + zeros
  }

  package var lossReach: String? { "values in groups where one is NaN, infinite or beyond what \(scale.rawValue) scales hold" }
  // Chunks are whole groups; of whole rows, of any length.
  package var fillsFrames: Bool { size != 0 }

  // MARK: On disk

  private static let scales: [DType] = [.f16, .bf16, .f32]

  package func writeParameters(_ parameters: inout CodecParameters) {
    parameters.out.u32(size)
    parameters.out.u8(scale.tableCode)
    parameters.out.u8(zero.code)
    parameters.out.u16(0)
  }

  package func writeIdentity(_ out: inout ByteWriter) {
    out.u32(size)
    out.u8(scale.tableCode)
    out.u8(zero.code)
  }

  fileprivate static func read(_ parameters: inout CodecParameters) throws -> Int4Groups? {
    let size = try parameters.input.u32()
    let (scaleCode, zeroCode) = (try parameters.input.u8(), try parameters.input.u8())
    guard try parameters.input.u16() == 0, size == 0 || sizes.contains(size), let scale = DType(tableCode: scaleCode),
      scales.contains(scale), let zero = Zero.allCases.first(where: { $0.code == zeroCode })
    else { return nil }
    return Int4Groups(size: size, scale: scale, zero: zero)
  }

  // MARK: At work

  package func encoder(_ task: EncodingTask) -> any TensorEncoder { Int4Encoder(self, task) }

  package func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder {
    Int4Decoder(length: length(columns: shape.last ?? 0), values(of: sections, memory))
  }

  package func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory {
    let groups = groups(shape)
    if case .changing = work { return CodecMemory(perThread: 0, perTensor: 12 * groups) }
    return CodecMemory(
      perThread: max(min(elementCount(of: shape) ?? 0, chunk), length(columns: shape.last ?? 0)) * 13, perTensor: 16 * groups)
  }

  /// Scales and zeros as float32, from the sections behind the codes.
  package func values(of sections: [[UInt8]], _ memory: Scratch) -> GroupValues {
    func floats(_ slot: Int, _ dtype: DType, _ bytes: [UInt8]) -> UnsafeMutablePointer<Float> {
      let count = bytes.count * 8 / dtype.bitWidth
      let out = memory.floatStart(slot, max(count, 1))
      bytes.withUnsafeBytes { raw in
        guard let from = raw.baseAddress else { return }
        if dtype == .u8 {
          for index in 0..<count { out[index] = Float(raw[index]) }
        } else {
          Kernels.widen(dtype, from, count: count, out)
        }
      }
      return out
    }
    let zeros = zero.dtype(scale).flatMap { dtype in sections.count > 1 ? floats(1, dtype, sections[1]) : nil }
    return GroupValues(scales: floats(0, scale, sections[0]), zeros: zeros, areOffsets: zero == .offset)
  }
}

/// The scale and zero of each group, in memory that something else keeps.
package struct GroupValues: @unchecked Sendable {
  package let scales: UnsafeMutablePointer<Float>
  /// nil where all are 8.
  package let zeros: UnsafeMutablePointer<Float>?
  /// Whether the zeros are offsets.
  package let areOffsets: Bool
}

/// Codes back into elements: fl(σ · fl(q − z)) or fl(fl(σ · q) + m), rounded once.
final class Int4Decoder: TensorDecoder, @unchecked Sendable {
  let length: Int
  let groups: GroupValues
  /// Elements decoded at a time.
  private static let piece = 1024

  init(length: Int, _ groups: GroupValues) { (self.length, self.groups) = (length, groups) }

  var grain: Int { length }
  func codes(_ start: Int, _ count: Int) -> Range<Int> { start / 2..<(start + count) / 2 }

  func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    let codes = codes.assumingMemoryBound(to: UInt8.self)
    withUnsafeTemporaryAllocation(of: Float.self, capacity: Self.piece) { buffer in
      guard let values = buffer.baseAddress else { return }
      var done = 0
      while done < count {
        let (group, within) = (start + done).quotientAndRemainder(dividingBy: length)
        let part = min(length - within, count - done, Self.piece)
        let (scale, zero) = (groups.scales[group], groups.zeros?[group] ?? Int4Groups.middle)
        for index in 0..<part / 2 {
          let pair = codes[(done + 2 * index) / 2], (first, second) = (Float(pair >> 4), Float(pair & 15))
          if groups.areOffsets {
            (values[2 * index], values[2 * index + 1]) = (scale * first + zero, scale * second + zero)
          } else {
            (values[2 * index], values[2 * index + 1]) = (scale * (first - zero), scale * (second - zero))
          }
        }
        Kernels.narrow(dtype, values, count: part, out + done * (dtype.bitWidth / 8))
        done += part
      }
    }
  }
}

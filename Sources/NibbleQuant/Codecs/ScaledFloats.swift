import CNibbleKernels
import NibbleCore

// Numbers of 4 and 8 bits with an exponent, and scales beside them, as checkpoints of other programs have them. They are read, and never
// written: what packs anew or stays plain are the numbers they stand for.

extension CodecKind {
  /// E2M1 with a power of two for every 32: OCP's microscaling format of 4 bits.
  public static let mxfp4 = CodecKind(number: 512, name: "mxfp4", isReadOnly: true, make: { _ in MXFP4() }, read: { _ in nil })
  /// E4M3 with scales of tiles.
  public static let fp8 = CodecKind(
    number: 513, name: "fp8", isReadOnly: true, make: { _ in FP8Tiles(height: 1, width: 1, scale: .f32) }, read: { _ in nil })
}

/// E2M1 codes, two a byte with the first in the low half, and for every 32 of a row the exponent of their scale: x = value · 2^(scale − 127).
public struct MXFP4: WeightCodec {
  package var kind: CodecKind { .mxfp4 }
  public var summary: String { "mxfp4, a power of two for 32" }

  /// No parameters.
  public init() {}

  /// Elements that share a scale.
  package static let block = 32

  package func refusal(_ dtype: DType, _ shape: [Int]) -> String? {
    guard shape.count == 2, let count = elementCount(of: shape), count > 0 else { return "it is no matrix" }
    return shape[1] % Self.block == 0 ? nil : "its rows of \(shape[1]) are no multiple of \(Self.block)"
  }

  package func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength] {
    let count = elementCount(of: shape) ?? 0
    return [(.codes, count / 2), (.scaleCodes, count / Self.block)]
  }

  package func encoder(_ task: EncodingTask) -> any TensorEncoder { Plain().encoder(task) }

  package func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder {
    MXFP4Decoder(scales: sections[0])
  }

  package func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory {
    CodecMemory(perThread: 0, perTensor: (elementCount(of: shape) ?? 0) / Self.block)
  }
}

private final class MXFP4Decoder: TensorDecoder {
  private let scales: [UInt8]

  init(scales: [UInt8]) { self.scales = scales }

  var grain: Int { MXFP4.block }

  func codes(_ start: Int, _ count: Int) -> Range<Int> { start / 2..<(start + count + 1) / 2 }

  func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    let codes = codes.assumingMemoryBound(to: UInt8.self)
    scales.withUnsafeBufferPointer { scales in
      guard let own = scales.baseAddress.map({ $0 + start / MXFP4.block }) else { return }
      narrowed(count, dtype, out) { done, width, values in nibble_mxfp4_decode(codes, own, done, width, values) }
    }
  }
}

/// E4M3 codes, and a scale for every tile of a matrix: x = value · scale, rounded to float32. Tiles at the right and lower edge may be smaller.
public struct FP8Tiles: WeightCodec {
  /// Rows of a tile.
  public let height: Int
  /// Columns of a tile.
  public let width: Int
  /// The type of scales: F32, BF16 or F16, or F8_E8M0 for powers of two.
  public let scale: DType

  /// Tiles of at least one row and column.
  public init(height: Int, width: Int, scale: DType) { (self.height, self.width, self.scale) = (max(height, 1), max(width, 1), scale) }

  package var kind: CodecKind { .fp8 }
  public var summary: String { "fp8, a scale for \(height) x \(width)" }
  package var description: [(key: String, value: JSON)] { [("tile", JSON("\(height)x\(width)"))] }

  package func refusal(_ dtype: DType, _ shape: [Int]) -> String? {
    shape.count == 2 && elementCount(of: shape) ?? 0 > 0 ? nil : "it is no matrix"
  }

  /// Tiles of a matrix.
  package func tiles(_ shape: [Int]) -> [Int] {
    guard shape.count == 2 else { return [0, 0] }
    return [ceilDivide(shape[0], height), ceilDivide(shape[1], width)]
  }

  package func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength] {
    [(.codes, elementCount(of: shape) ?? 0), (.scales, (elementCount(of: tiles(shape)) ?? 0) * scale.bitWidth / 8)]
  }

  package func writeIdentity(_ out: inout ByteWriter) {
    out.u64(height)
    out.u64(width)
    out.u8(scale.tableCode)
  }

  package func encoder(_ task: EncodingTask) -> any TensorEncoder { Plain().encoder(task) }

  package func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder {
    FP8Decoder(self, columns: shape.last ?? 1, sections[0].withUnsafeBytes(scales))
  }

  package func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory {
    CodecMemory(perThread: 0, perTensor: 8 * (elementCount(of: tiles(shape)) ?? 0))
  }

  /// Scales as float32.
  package func scales(_ bytes: UnsafeRawBufferPointer) -> [Float] {
    guard let start = bytes.baseAddress else { return [] }
    let count = bytes.count * 8 / scale.bitWidth
    return [Float](unsafeUninitializedCapacity: count) { buffer, initialized in
      if let to = buffer.baseAddress {
        if scale.bitWidth == 8 {
          nibble_powers_of_two(start.assumingMemoryBound(to: UInt8.self), count, to)
        } else {
          Kernels.widen(scale, start, count: count, to)
        }
      }
      initialized = count
    }
  }
}

private final class FP8Decoder: TensorDecoder {
  private let codec: FP8Tiles
  private let columns: Int
  private let scales: [Float]

  init(_ codec: FP8Tiles, columns: Int, _ scales: [Float]) { (self.codec, self.columns, self.scales) = (codec, columns, scales) }

  func codes(_ start: Int, _ count: Int) -> Range<Int> { start..<start + count }

  func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    // As if the codes of the whole matrix were there.
    let codes = codes.assumingMemoryBound(to: UInt8.self) - start
    scales.withUnsafeBufferPointer { scales in
      let tiles = nibble_fp8_tiles(scales: scales.baseAddress, columns: columns, height: codec.height, width: codec.width)
      narrowed(count, dtype, out) { done, width, values in nibble_fp8_decode(codes, tiles, start + done, width, values) }
    }
  }
}

/// Values in F32, F16 or BF16, decoded a few at a time.
private func narrowed(
  _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer,
  _ decode: (_ done: Int, _ width: Int, _ values: UnsafeMutablePointer<Float>) -> Void
) {
  if dtype == .f32 { return decode(0, count, out.assumingMemoryBound(to: Float.self)) }
  inPieces(of: count) { values, done, width in
    decode(done, width, values)
    Kernels.narrow(dtype, values, count: width, out + done * (dtype.bitWidth / 8))
  }
}

import NibbleCore
import NibbleQuant

/// A packed tensor's scales, restored and checked, ready to decode any chunk of its codes.
final class PackedDecoder: @unchecked Sendable {
  private enum Layout {
    case blocks(BlockCodec)
    /// Of so many elements.
    case rows(Int)
  }

  private let layout: Layout
  /// One a block or row.
  let absmax: UnsafeMutableBufferPointer<Float>
  /// The plain bytes of the sections behind the codes, in order.
  let scaleBytes: [[UInt8]]

  /// - Parameter scratch: owns the restored scales for as long as the decoder is used
  init(_ tensor: StoredTensor, _ scratch: Scratch, slot: Int = TensorStream.Slot.restored) throws {
    let sections = tensor.sections.filter { $0.kind != .codes && $0.kind != .stateText }
    scaleBytes = try sections.map { try SectionReader($0, tensor.name.text).readWhole() }
    guard let codec = tensor.encoding.codec else {
      layout = .rows(tensor.shape.last ?? 0)
      absmax = scratch.floats(slot, tensor.shape.first ?? 0)
      UnsafeMutableRawBufferPointer(absmax).copyBytes(from: scaleBytes[0])
      return
    }
    layout = .blocks(codec)
    absmax = scratch.floats(slot, codec.blocks(tensor.count))
    guard let out = absmax.baseAddress else { return }
    guard let nested = codec.nested else {
      UnsafeMutableRawBufferPointer(absmax).copyBytes(from: scaleBytes[0])
      return
    }
    let offset = Self.floats(scaleBytes[2]).first ?? 0
    let nestedScales = Self.floats(scaleBytes[1])
    scaleBytes[0].withUnsafeBufferPointer { codes in
      nestedScales.withUnsafeBufferPointer { nestedScales in
        guard let base = nestedScales.baseAddress else { return }
        ScaleCoder.decode(
          codes, map: nested.codebook, nestedAbsmax: base, blockSize: nested.blockSize, offset: offset, absmax: out)
      }
    }
  }

  private static func floats(_ bytes: [UInt8]) -> [Float] {
    bytes.withUnsafeBytes { raw in
      (0..<raw.count / 4).map {
        Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self)))
      }
    }
  }

  /// Reads the codes of `count` elements from `start`; where these are in blocks, a multiple of the block size.
  func readCodes(
    _ reader: SectionReader, _ start: Int, _ count: Int, _ scratch: Scratch
  ) throws -> (plain: UnsafeRawBufferPointer, stored: UnsafeRawBufferPointer) {
    var (bytes, at) = (count, start)
    if case .blocks(let codec) = layout { (bytes, at) = (codec.codeBytes(count), start / 2) }
    let plain = scratch.bytes(TensorStream.Slot.input, bytes)
    let stored = try reader.read(at, into: plain, scratch, slot: TensorStream.Slot.inputStored)
    return (UnsafeRawBufferPointer(plain), stored)
  }

  func decode(_ codes: UnsafeRawBufferPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    guard let codes = codes.baseAddress, let scales = absmax.baseAddress else { return }
    switch layout {
    case .blocks(let codec):
      Kernels.decode(
        codec, codes: codes.assumingMemoryBound(to: UInt8.self), count: count, absmax: scales + start / codec.blockSize,
        dtype, out)
    case .rows(let columns):
      RowCodec.decode(
        codes.assumingMemoryBound(to: Int8.self), from: start, count: count, columns: columns, scales: scales, dtype, out)
    }
  }
}

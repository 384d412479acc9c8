import NibbleCore
import NibbleQuant

/// A packed tensor's scales, restored and checked, ready to read and decode any run of its codes.
final class PackedDecoder: Sendable {
  let decoder: any TensorDecoder
  /// The plain bytes of the sections behind the codes, in order.
  let sections: [[UInt8]]
  private let memory = Unchecked(Scratch())

  init(_ tensor: StoredTensor) throws {
    let kept = tensor.sections.dropFirst().filter { $0.kind != .stateText }
    sections = try kept.map { try SectionReader($0, tensor.name.text).readWhole() }
    decoder = tensor.encoding.codec.decoder(tensor.dtype, tensor.shape, sections, memory.value)
  }

  /// Reads the codes of `count` elements from `start`, a multiple of the decoder's grain.
  func readCodes(
    _ reader: SectionReader, _ start: Int, _ count: Int, _ scratch: Scratch
  ) throws -> (plain: UnsafeRawBufferPointer, stored: UnsafeRawBufferPointer) {
    let range = decoder.codes(start, count)
    let plain = scratch.bytes(TensorStream.Slot.input, range.count)
    let stored = try reader.read(range.lowerBound, into: plain, scratch, slot: TensorStream.Slot.inputStored)
    return (UnsafeRawBufferPointer(plain), stored)
  }

  func decode(_ codes: UnsafeRawBufferPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    if let codes = codes.baseAddress { decoder.decode(codes, start, count, dtype, out) }
  }
}

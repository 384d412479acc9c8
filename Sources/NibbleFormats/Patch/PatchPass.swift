import NibbleCore

/// The bytes of one side of a patch, part after part, checked against its table as they come.
final class PatchCheck: @unchecked Sendable {
  private let parts: [PatchPart]
  private let side: PatchSide
  /// What to call the file that does not hold what its table says.
  private let place: MessageText
  private var hash = XXH3()

  init(_ parts: [PatchPart], _ side: PatchSide, place: MessageText) {
    (self.parts, self.side, self.place) = (parts, side, place)
  }

  /// Takes the bytes of the next chunk; those behind the end of the side's own section do not count.
  func admit(_ chunk: PatchChunk, _ bytes: UnsafeRawBufferPointer) throws {
    let part = parts[chunk.part]
    hash.update(.init(rebasing: bytes[..<chunk.count(in: part, side)]))
    guard chunk.isLast else { return }
    defer { hash = XXH3() }
    guard let expected = part[side]?.entry.checksum, expected != hash.digest64 else { return }
    throw NibbleError.integrity(
      "\(place): \(part.description): its bytes have checksum \(hexText(hash.digest64)), the table says \(hexText(expected))")
  }
}

extension PatchChunk {
  /// How many of its bytes a side has.
  func count(in part: PatchPart, _ side: PatchSide) -> Int { min(max(part.length(side) - offset, 0), count) }

  /// Fills `buffer` with what one side has of this chunk, and with zeros.
  func read(_ part: PatchPart, _ side: PatchSide, of view: NblView, into buffer: UnsafeMutableRawBufferPointer) throws {
    let have = count(in: part, side)
    if have > 0, let number = part[side]?.number {
      try view.sections[number].read(into: .init(rebasing: buffer[..<have]), at: offset)
    }
    UnsafeMutableRawBufferPointer(rebasing: buffer[have..<count]).initializeMemory(as: UInt8.self, repeating: 0)
  }
}

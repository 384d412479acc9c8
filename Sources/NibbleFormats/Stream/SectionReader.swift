import NibbleCore
import NibbleQuant

/// Compressed sections are runs of independent zstd frames of this many plain bytes, the last one perhaps shorter,
/// followed by the length of each frame in four bytes.
let frameLength = 256 << 10

/// Reads one section in consecutive ranges and checks its checksum as they come.
final class SectionReader: @unchecked Sendable {
  let section: StoredSection
  private let name: String
  /// Where each frame begins in the section, and where the last one ends.
  private let frameStarts: [Int]
  /// Fed in order, from one thread at a time.
  private let hash: XXH3?

  init(_ section: StoredSection, _ name: String) throws {
    self.section = section
    self.name = name
    hash = section.checksum == nil ? nil : XXH3()
    frameStarts = section.compression == .none ? [] : try Self.frameStarts(section, name)
  }

  deinit { section.release() }

  private static func frameStarts(_ section: StoredSection, _ name: String) throws -> [Int] {
    let frames = ceilDivide(section.plainLength, frameLength)
    let (tableLength, overflow) = frames.multipliedReportingOverflow(by: 4)
    guard !overflow, tableLength <= section.storedLength, section.plainLength % section.compression.planes == 0 else {
      throw NibbleError.badInput("\(path: section.place): \(tensor: name): a compressed section too short for its frames")
    }
    let table = try read(section, section.storedLength - tableLength, tableLength)
    var starts = [0]
    var at = 0
    for frame in 0..<frames {
      let length = (0..<4).reduce(0) { $0 | Int(table[4 * frame + $1]) << (8 * $1) }
      // So that what is read at a time stays small, whatever a file says.
      guard length <= Zstd.bound(frameLength) else {
        throw NibbleError.badInput(
          "\(path: section.place): \(tensor: name): a frame of \(length) bytes, more than any of \(frameLength) plain ones takes"
        )
      }
      at += length
      starts.append(at)
    }
    guard at == section.storedLength - tableLength else {
      throw NibbleError.integrity("\(path: section.place): \(tensor: name): frame lengths do not add up to the section")
    }
    return starts
  }

  private static func read(_ section: StoredSection, _ offset: Int, _ count: Int) throws -> [UInt8] {
    try [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      try section.read(
        into: UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[..<count]), at: offset)
      initialized = count
    }
  }

  /// Fills `plain` with the bytes from `offset`. In a compressed section the range must consist of whole frames.
  ///
  /// - Parameter slot: the first of two scratch slots to use
  /// - Returns: the stored bytes, to be handed to `admit` in order
  func read(
    _ offset: Int, into plain: UnsafeMutableRawBufferPointer, _ scratch: Scratch, slot: Int
  ) throws -> UnsafeRawBufferPointer {
    if section.compression == .none {
      try section.read(into: plain, at: offset)
      return UnsafeRawBufferPointer(plain)
    }
    let first = offset / frameLength
    let last = ceilDivide(offset + plain.count, frameLength)
    let start = frameStarts[first]
    let stored = scratch.bytes(slot, frameStarts[last] - start)
    try section.read(into: stored, at: start)
    for frame in first..<last {
      let at = frame * frameLength - offset
      let count = min(frameLength, plain.count - at)
      let part = UnsafeMutableRawBufferPointer(rebasing: plain[at..<at + count])
      let bytes = UnsafeRawBufferPointer(rebasing: stored[frameStarts[frame] - start..<frameStarts[frame + 1] - start])
      try decompress(bytes, into: part, scratch, slot + 1)
    }
    return UnsafeRawBufferPointer(stored)
  }

  private func decompress(
    _ frame: UnsafeRawBufferPointer, into part: UnsafeMutableRawBufferPointer, _ scratch: Scratch, _ slot: Int
  ) throws {
    let planes = section.compression.planes
    let target = planes == 1 ? part : scratch.bytes(slot, part.count)
    if let reason = Zstd.decompress(frame, into: target) {
      throw NibbleError.integrity("\(path: section.place): \(tensor: name): a zstd frame does not decompress: \(reason)")
    }
    if planes > 1, let from = target.baseAddress, let to = part.baseAddress {
      Kernels.joinPlanes(
        element: planes, from.assumingMemoryBound(to: UInt8.self), count: part.count / planes,
        to.assumingMemoryBound(to: UInt8.self))
    }
  }

  /// Takes note of stored bytes, range after range.
  func admit(_ stored: UnsafeRawBufferPointer) { hash?.update(stored) }

  /// Checks the checksum once every range was admitted.
  func finish() throws {
    guard let hash, let expected = section.checksum else { return }
    if section.compression != .none {
      let tableLength = 4 * (frameStarts.count - 1)
      hash.update(try Self.read(section, section.storedLength - tableLength, tableLength))
    }
    try section.check(hash.digest64, against: expected, name)
  }

  /// The whole section, checked.
  func readWhole(limit: Int = Int.max) throws -> [UInt8] {
    guard section.plainLength <= limit else {
      throw NibbleError.badInput("\(path: section.place): \(subject: name) of \(section.plainLength) bytes is too large")
    }
    let scratch = Scratch()
    let bytes = try [UInt8](unsafeUninitializedCapacity: section.plainLength) { buffer, count in
      let plain = UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[..<section.plainLength])
      if plain.count > 0 { admit(try read(0, into: plain, scratch, slot: 0)) }
      count = section.plainLength
    }
    try finish()
    return bytes
  }
}

import Glibc
import NibbleCore

/// The sections that a patch changes, in memory: pages of the mapped file that belong to this process once they are written to, and
/// pages without a file for sections that the file has no room for.
final class PatchOverlay: @unchecked Sendable {
  private let map: MappedFile
  private let file: InputFile
  /// Sections of their own, by part.
  private var added: [Int: UnsafeMutableRawBufferPointer] = [:]

  /// Applies what a patch changes of the tensors; nil for a checkpoint without a patch.
  init?(_ checkpoint: Checkpoint) throws {
    let sections = checkpoint.tensors.flatMap(\.sections).compactMap { section -> (PatchedBytes, Int)? in
      if case .patched(let patched) = section.source { (patched, section.storedLength) } else { nil }
    }
    guard !sections.isEmpty else { return nil }
    guard checkpoint.container == .nbl, let file = checkpoint.files.first else {
      throw NibbleError.usage("\(path: checkpoint.path): a patch is applied in memory to block files (.nbl) only")
    }
    self.file = file
    map = try file.map(isOwn: true)
    for (patched, count) in sections where count > patched.base?.storedLength ?? 0 {
      let start = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
      guard let start, start != MAP_FAILED else {
        throw NibbleError.badInput(
          "\(path: patched.patch.path): no memory for a section of \(byteText(count)): \(errorText(errno))")
      }
      added[patched.part] = UnsafeMutableRawBufferPointer(start: start, count: count)
    }
    // The largest pieces a core can work on at once.
    let size = 16 * PatchHeader.spanLength
    let pieces = sections.flatMap { patched, count in
      stride(from: 0, to: count, by: size).map { (patched, $0, min(size, count - $0)) }
    }
    try forEachChunk(pieces.count, threads: availableCores, ScratchPool()) { [self] index, _, _ in
      let (patched, start, count) = pieces[index]
      guard let all = place(patched, count: start + count) else {
        throw NibbleError.badInput("\(path: file.path): became shorter while it was opened")
      }
      let bytes = UnsafeMutableRawBufferPointer(rebasing: all[start...])
      if added[patched.part] != nil { try patched.readBase(into: bytes, at: start) }
      try patched.patch.apply(patched.part, at: start, to: bytes)
    }
  }

  deinit { for buffer in added.values { munmap(buffer.baseAddress, buffer.count) } }

  /// The mapping that is to be used for `file`.
  func map(of file: InputFile) -> MappedFile? { file === self.file ? map : nil }

  private func place(_ patched: PatchedBytes, count: Int) -> UnsafeMutableRawBufferPointer? {
    if let own = added[patched.part] { return own.count >= count ? .init(rebasing: own[..<count]) : nil }
    guard let all = map.ownBytes, case .file(_, let offset)? = patched.base?.source, offset >= 0, offset <= all.count,
      count <= all.count - offset
    else { return nil }
    return .init(rebasing: all[offset..<offset + count])
  }

  /// A section of `count` bytes as the patch makes it.
  func bytes(_ patched: PatchedBytes, count: Int) -> UnsafeRawBufferPointer? {
    place(patched, count: count).map { UnsafeRawBufferPointer($0) }
  }
}

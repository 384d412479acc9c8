import CNibbleSystem
import Glibc

/// A file being written, by many threads, each byte once, in any order.
///
/// Bytes are gathered in windows of 4 MiB; the thread that completes a window writes it. Large files bypass the
/// page cache where the file system allows: copying a gigabyte into fresh cache pages costs more than
/// quantizing it, and a final `fsync` of all of it would make Ctrl-C wait.
package final class OutputFile: @unchecked Sendable {
  package static let windowSize = 4 << 20

  package let path: String
  /// Where it lies until it is published.
  private let place: String
  private let descriptor: Int32
  private var opened: InputFile?
  private let lock = Lock()
  // Guarded by `lock`; the bytes inside a window are not: their ranges never overlap.
  private var windows: [Int: Window] = [:]
  private var free: [UnsafeMutableRawBufferPointer] = []
  private var length = 0

  private struct Window {
    let buffer: UnsafeMutableRawBufferPointer
    var filled = 0
    /// What was filled since the last sync lies in it.
    var unsynced: Range<Int>?
  }

  /// Takes over `descriptor`, a file that is empty or holds what `keep` is going to tell; `expectedSize` only chooses how it is
  /// written.
  init(descriptor: Int32, path: String, place: String, expectedSize: Int) {
    self.descriptor = descriptor
    self.path = path
    self.place = place
    if expectedSize >= 16 * Self.windowSize { _ = nibble_set_direct(descriptor, 1) }
  }

  deinit {
    for window in windows.values { window.buffer.deallocate() }
    for buffer in free { buffer.deallocate() }
    close(descriptor)
  }

  /// Writes `bytes` at `offset`. No other call may touch the same range.
  package func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws {
    var done = 0
    while done < bytes.count {
      let index = (offset + done) / Self.windowSize
      let start = (offset + done) % Self.windowSize
      let count = min(bytes.count - done, Self.windowSize - start)
      let buffer = window(index)
      UnsafeMutableRawBufferPointer(rebasing: buffer[start..<start + count])
        .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[done..<done + count]))
      if fill(index, start..<start + count) {
        try writeOut(buffer, at: index * Self.windowSize)
        lock.hold { free.append(buffer) }
      }
      done += count
    }
  }

  package func write(_ bytes: [UInt8], at offset: Int) throws {
    try bytes.withUnsafeBytes { try write($0, at: offset) }
  }

  private func window(_ index: Int) -> UnsafeMutableRawBufferPointer {
    lock.hold {
      if let window = windows[index] { return window.buffer }
      let buffer = free.popLast() ?? Self.emptyWindow()
      windows[index] = Window(buffer: buffer)
      return buffer
    }
  }

  /// Counts the bytes of `range` into a window; true when that completes it, which takes it out.
  private func fill(_ index: Int, _ range: Range<Int>) -> Bool {
    lock.hold {
      length += range.count
      guard var window = windows.removeValue(forKey: index) else { return false }
      window.filled += range.count
      let known = window.unsynced ?? range
      window.unsynced = min(known.lowerBound, range.lowerBound)..<max(known.upperBound, range.upperBound)
      if window.filled == Self.windowSize { return true }
      windows[index] = window
      return false
    }
  }

  private static func emptyWindow() -> UnsafeMutableRawBufferPointer {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: windowSize, alignment: 4096)
    buffer.initializeMemory(as: UInt8.self, repeating: 0)
    return buffer
  }

  /// The file as an earlier run left it.
  package func earlier() throws -> InputFile {
    if let opened { return opened }
    let file = try InputFile(place)
    opened = file
    return file
  }

  /// Counts `range`, which an earlier run wrote, as written.
  package func keep(_ range: Range<Int>) throws {
    // Windows are written whole: parts of those that others share are brought into them again.
    let first = min(range.upperBound, ceilDivide(range.lowerBound, Self.windowSize) * Self.windowSize)
    let last = max(first, range.upperBound / Self.windowSize * Self.windowSize)
    lock.hold { length += last - first }
    for part in [range.lowerBound..<first, last..<range.upperBound] {
      try write(try earlier().bytes(at: part.lowerBound, count: part.count), at: part.lowerBound)
    }
  }

  /// Brings everything that was written so far to the disk. No write may be under way.
  package func sync() throws {
    for (index, window) in windows {
      guard let range = window.unsynced else { continue }
      // Whole pages, as writing past the cache asks; what is not filled yet is written again when it is.
      let (start, end) = (range.lowerBound / 4096 * 4096, ceilDivide(range.upperBound, 4096) * 4096)
      try writeOut(.init(rebasing: window.buffer[start..<end]), at: index * Self.windowSize + start)
      windows[index]?.unsynced = nil
    }
    guard fdatasync(descriptor) == 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno)) while syncing") }
  }

  private func writeOut(_ buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws {
    try Interrupt.check()
    var done = 0
    var isPlain = false
    while done < buffer.count {
      let count = pwrite(descriptor, buffer.baseAddress! + done, buffer.count - done, offset + done)
      if count < 0 {
        if errno == EINTR { try Interrupt.check(); continue }
        // Some file systems take the flag and refuse the write, or refuse what a short write left. Another thread
        // may have taken the flag away since, so what it is now says nothing about the write that failed.
        if errno == EINVAL, !isPlain, nibble_set_direct(descriptor, 0) == 0 {
          isPlain = true
          continue
        }
        throw NibbleError.cannotWrite("\(path: path): \(errorText(errno)) while writing at byte \(offset + done)")
      }
      if count == 0 { throw NibbleError.cannotWrite("\(path: path): nothing more can be written at byte \(offset + done)") }
      done += count
    }
  }

  /// Writes what is left, waits until everything is on the disk and checks that `length` bytes came.
  package func finish(length: Int) throws {
    let rest = windows.sorted { $0.key < $1.key }
    let written = self.length
    // A gap or a byte too many is our own mistake, and must not pass for a finished file.
    guard written == length, rest.count <= 1, rest.allSatisfy({ $0.key == length / Self.windowSize }) else {
      throw NibbleError(.failed, "\(path: path): wrote \(written) bytes of \(length)")
    }
    _ = nibble_set_direct(descriptor, 0)
    for (index, window) in rest {
      try writeOut(.init(rebasing: window.buffer[..<window.filled]), at: index * Self.windowSize)
    }
    for (_, window) in rest { window.buffer.deallocate() }
    for buffer in free { buffer.deallocate() }
    windows = [:]
    free = []
    // An earlier run, or a sync, may have written whole windows and pages.
    guard ftruncate(descriptor, off_t(length)) == 0, fsync(descriptor) == 0 else {
      throw NibbleError.cannotWrite("\(path: path): \(errorText(errno)) while syncing")
    }
  }
}

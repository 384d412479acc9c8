import Dispatch
import Glibc

/// A file's bytes in place: read as the kernel pages them in, never copied unless they are changed.
///
/// A file that is cut while it is mapped cannot be an error at the place that reads it. `MappedFile.watch` turns the signal
/// into one line and exit code 3.
package final class MappedFile: @unchecked Sendable {
  package let path: String
  package let bytes: UnsafeRawBufferPointer
  /// The same bytes, to be changed for this process only, if the file was mapped for that.
  package let ownBytes: UnsafeMutableRawBufferPointer?

  init(_ path: String, _ descriptor: Int32, size: Int, readsAhead: Bool, isOwn: Bool) throws {
    self.path = path
    guard size > 0 else {
      (bytes, ownBytes) = (UnsafeRawBufferPointer(start: nil, count: 0), nil)
      return
    }
    let (access, kind) = isOwn ? (PROT_READ | PROT_WRITE, MAP_PRIVATE) : (PROT_READ, MAP_SHARED)
    guard let start = mmap(nil, size, access, kind, descriptor, 0), start != MAP_FAILED else {
      throw NibbleError.badInput("\(path: path): cannot be mapped: \(errorText(errno))")
    }
    bytes = UnsafeRawBufferPointer(start: start, count: size)
    ownBytes = isOwn ? UnsafeMutableRawBufferPointer(start: start, count: size) : nil
    guard readsAhead else { return }
    // Reading ahead waits for the disk where the file is not in the page cache: not here.
    DispatchQueue.global().async { [self] in
      madvise(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count, MADV_WILLNEED)
    }
  }

  /// Lets go of the pages of `range` that are resident; they come back when they are read again.
  package func release(_ range: Range<Int>) { advise(range, MADV_DONTNEED) }

  private func advise(_ range: Range<Int>, _ advice: CInt) {
    let page = Int(sysconf(Int32(_SC_PAGESIZE)))
    let start = range.clamped(to: 0..<bytes.count).lowerBound / page * page
    let count = range.clamped(to: 0..<bytes.count).upperBound - start
    guard count > 0, let base = bytes.baseAddress else { return }
    madvise(UnsafeMutableRawPointer(mutating: base + start), count, advice)
  }

  deinit {
    if let start = bytes.baseAddress { munmap(UnsafeMutableRawPointer(mutating: start), bytes.count) }
  }

  /// Ends the process with one line and exit code 3 when a mapped file turns out to be shorter than it was. For programs
  /// only: a library does not touch signals.
  package static func watch() {
    var action = sigaction()
    action.__sigaction_handler.sa_handler = { _ in
      let text: StaticString = "nibble: error: a model file became shorter while it was in use\n"
      _ = Glibc.write(STDERR_FILENO, text.utf8Start, text.utf8CodeUnitCount)
      _exit(3)
    }
    sigaction(SIGBUS, &action, nil)
  }
}

extension InputFile {
  /// The whole file, mapped.
  ///
  /// - Parameters:
  ///   - readsAhead: whether all of it is going to be read soon
  ///   - isOwn: whether its bytes can be changed, in memory and for this process only
  package func map(readsAhead: Bool = true, isOwn: Bool = false) throws -> MappedFile {
    try MappedFile(path, mappableDescriptor, size: size, readsAhead: readsAhead, isOwn: isOwn)
  }
}

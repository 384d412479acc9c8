import Glibc

/// A file that is kept beside an output and only grows, held by one process at a time.
package final class GrowingFile {
  private let path: String
  private let descriptor: Int32

  /// Opens `path`, which is made if it is not there.
  ///
  /// - Throws: `.cannotWrite`; `.usage` while another process has it open
  package init(_ path: String) throws {
    self.path = path
    descriptor = try Self.opened(path)
  }

  private static func opened(_ path: String) throws -> Int32 {
    for _ in 0..<100 {
      let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0o666)
      guard descriptor >= 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno))") }
      var held = stat(), named = stat()
      guard fstat(descriptor, &held) == 0, held.st_mode & S_IFMT == S_IFREG else {
        close(descriptor)
        throw NibbleError.cannotWrite("\(path: path): not a regular file")
      }
      guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
        close(descriptor)
        throw NibbleError.usage("\(path: path) is being written by another process")
      }
      // Its last holder may have removed it before letting go.
      if lstat(path, &named) == 0, named.st_ino == held.st_ino, named.st_dev == held.st_dev { return descriptor }
      close(descriptor)
    }
    throw NibbleError.cannotWrite("\(path: path) keeps changing hands")
  }

  deinit { close(descriptor) }

  /// Writes bytes and waits until they are on the disk.
  func write(_ bytes: [UInt8], at offset: Int) throws {
    try writeAll(bytes, to: descriptor, at: offset, path)
    guard fdatasync(descriptor) == 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno)) while syncing") }
  }

  /// Forgets what lies behind.
  func cut(to length: Int) throws {
    guard ftruncate(descriptor, off_t(length)) == 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno))") }
  }
}

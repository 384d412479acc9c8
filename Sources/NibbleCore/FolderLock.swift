import Glibc

/// A folder that this process alone writes into, until the lock is gone or the process has ended.
package final class FolderLock {
  /// Of the folder. A program that is started with it holds the lock, too.
  package let descriptor: Int32

  /// - Parameter waits: called while another process holds the folder; false gives up
  /// - Throws: `.usage` for a folder that another process holds, `.cannotWrite` for one that cannot be opened or locked
  package init(_ path: String, waits: () -> Bool = { false }) throws {
    let opened = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard opened >= 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno))") }
    while flock(opened, LOCK_EX | LOCK_NB) != 0 {
      let error = errno
      if error == EINTR { continue }
      guard error == EWOULDBLOCK else {
        close(opened)
        throw NibbleError.cannotWrite("\(path: path) cannot be locked: \(errorText(error))")
      }
      guard waits() else {
        close(opened)
        throw NibbleError.usage("\(path: path) is being written by another process")
      }
    }
    descriptor = opened
  }

  deinit { close(descriptor) }

  /// Waits until the names in the folder are on the disk.
  ///
  /// - Returns: whether they are
  package func sync() -> Bool { fsync(descriptor) == 0 }
}

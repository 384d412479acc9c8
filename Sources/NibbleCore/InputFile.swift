import CNibbleSystem
import Glibc
import Synchronization

/// The text of an `errno`.
package func errorText(_ code: Int32) -> String { String(cString: strerror(code)) }

/// A regular file opened for positioned reads, watched for change.
///
/// Reads go through `pread`: a file that shrinks or a disk that fails is an error here, where a mapping
/// would end in a signal.
package final class InputFile: Sendable {
  package let path: String
  /// Bytes the file had when it was opened.
  package let size: Int
  private let descriptor: Int32
  /// For `map`, which needs it only while it maps.
  var mappableDescriptor: Int32 { descriptor }
  private let state: State
  private let shared = Mutex<MappedFile?>(nil)

  /// What changes when someone writes to a file or puts another in its place.
  struct State: Equatable {
    let device: UInt, inode: UInt, size: Int, seconds: Int, nanoseconds: Int

    init(_ status: stat) {
      device = UInt(status.st_dev)
      inode = UInt(status.st_ino)
      size = Int(status.st_size)
      seconds = status.st_mtim.tv_sec
      nanoseconds = status.st_mtim.tv_nsec
    }
  }

  /// Opens `path`, following symbolic links to a regular file.
  ///
  /// - Throws: `.badInput` if there is none or it cannot be read; pipes, devices and folders are refused unopened.
  package init(_ path: String) throws {
    // Without O_NONBLOCK, opening a pipe would wait for a writer.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
    guard descriptor >= 0 else { throw NibbleError.badInput("\(path: path): \(errorText(errno))") }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      close(descriptor)
      throw NibbleError.badInput("\(path: path): not a regular file")
    }
    self.path = path
    self.descriptor = descriptor
    size = Int(status.st_size)
    state = State(status)
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_SEQUENTIAL)
  }

  deinit { close(descriptor) }

  /// Fills `buffer` from `offset`.
  package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws {
    var done = 0
    while done < buffer.count {
      let count = pread(descriptor, buffer.baseAddress! + done, buffer.count - done, offset + done)
      if count < 0 {
        if errno == EINTR { try Interrupt.check(); continue }
        throw NibbleError.badInput("\(path: path): \(errorText(errno)) while reading at byte \(offset + done)")
      }
      if count == 0 {
        throw NibbleError.badInput("\(path: path): ends at byte \(offset + done), \(size) bytes when it was opened")
      }
      done += count
    }
  }

  /// One mapping for all that is read in another order than the file's.
  package func sharedMap() throws -> MappedFile {
    try shared.withLock { known in
      if let known { return known }
      let map = try map(readsAhead: false)
      known = map
      return map
    }
  }

  package func bytes(at offset: Int, count: Int) throws -> [UInt8] {
    try [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      try read(into: UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[..<count]), at: offset)
      initialized = count
    }
  }

  /// Throws if the file is not what it was when it was opened.
  package func checkUnchanged() throws {
    var status = stat()
    guard fstat(descriptor, &status) == 0, State(status) == state else {
      throw NibbleError.badInput("\(path: path): changed while it was read")
    }
  }

  /// Whose it is, and who may do what with it.
  var permissions: (owner: uid_t, group: gid_t, mode: mode_t)? {
    var status = stat()
    return fstat(descriptor, &status) == 0 ? (status.st_uid, status.st_gid, status.st_mode & 0o777) : nil
  }

  /// Makes the extended attributes of the file `other`, access control lists among them, those of this one.
  ///
  /// - Returns: how many are not as they are here
  func giveAttributes(to other: Int32) -> Int { Int(nibble_copy_attributes(descriptor, other)) }

  /// What tells this state of this file from any other, other files and other times alike. Setting back the time of a change leaves
  /// a trace in it.
  package var stamp: [Int] {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { return [] }
    return [
      Int(status.st_ino), Int(status.st_size), status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_ctim.tv_sec,
      status.st_ctim.tv_nsec,
    ]
  }

  /// Whether `path` leads to this very file.
  package func isSameFile(as path: String) -> Bool {
    var status = stat()
    guard stat(path, &status) == 0 else { return false }
    return UInt(status.st_dev) == state.device && UInt(status.st_ino) == state.inode
  }
}

/// What stands at a path.
package enum PathKind: Sendable {
  case nothing, file, folder, other

  package init(_ path: String) {
    var status = stat()
    guard stat(path, &status) == 0 else { self = .nothing; return }
    switch status.st_mode & S_IFMT {
    case S_IFREG: self = .file
    case S_IFDIR: self = .folder
    default: self = .other
    }
  }
}

/// `path` without symbolic links, or as it is if it leads nowhere.
package func realPath(_ path: String) -> String {
  guard let found = realpath(path, nil) else { return path }
  defer { free(found) }
  return String(cString: found)
}

/// Whether `path` is a folder itself, not a link to one.
package func isOwnFolder(_ path: String) -> Bool {
  var status = stat()
  return lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
}

/// The names in a folder, sorted by their bytes, without `.` and `..`.
package func namesInFolder(_ path: String) throws -> [String] {
  guard let folder = opendir(path) else { throw NibbleError.badInput("\(path: path): \(errorText(errno))") }
  defer { closedir(folder) }
  var names: [String] = []
  while let entry = readdir(folder) {
    let name = withUnsafePointer(to: &entry.pointee.d_name) {
      $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
    }
    if name != ".", name != ".." { names.append(name) }
  }
  return names.sorted { ByteName($0) < ByteName($1) }
}

/// Whether two paths lead to the same folder.
package func isSameFolder(_ a: String, _ b: String) -> Bool {
  var first = stat()
  var second = stat()
  return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev && first.st_ino == second.st_ino
}

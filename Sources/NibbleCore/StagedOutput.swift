import CNibbleSystem
import Glibc

/// An output that becomes visible whole or not at all.
///
/// Everything is written under a hidden name beside the destination, held by a lock, and `publish()` gives it its
/// name. The hidden name is always the same, so that a run after a kill finds what is stale: it removes that, or goes on
/// with it where a journal beside it tells what is in it.
package final class StagedOutput {
  package enum Shape: Sendable {
    case file
    /// A folder; `owns` tells the files that `force` may replace, those in folders as `folder/file`.
    case folder(owns: @Sendable (String) -> Bool)
  }

  package let destination: String
  private let parent: String
  /// Where it lies until it is published.
  package let staging: String
  private let shape: Shape
  private let force: Bool
  /// Whether what an earlier run left is kept to go on with.
  private let keepsPartial: Bool
  private var lock: Int32 = -1
  /// Files made in the folder.
  private var names: Set<String> = []

  /// Claims `destination`.
  ///
  /// - Parameter keepingPartial: leaves what an earlier run left where it is
  /// - Throws: `.usage` if it exists and `force` is false, holds what is not ours to replace, or is being
  ///   written by another process; `.cannotWrite` if its folder is missing or takes no files.
  package init(_ destination: String, _ shape: Shape, force: Bool, keepingPartial: Bool = false) throws {
    let path = destination.withoutTrailingSlashes
    let slash = path.lastIndex(of: "/")
    let name = String(slash.map { path[path.index(after: $0)...] } ?? path[...])
    parent = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    guard !name.isEmpty, name != ".", name != ".." else {
      throw NibbleError.usage("\(path: destination): not a name that can be written")
    }
    self.destination = path
    self.shape = shape
    self.force = force
    keepsPartial = keepingPartial
    staging = parent + "/." + name + ".nibble-partial"
    guard PathKind(parent) == .folder else {
      throw NibbleError.cannotWrite("\(path: destination): the folder \(parent) does not exist")
    }
    try Self.checkReplaceable(path, shape, force: force)
    lock = try claim()
    do { try keepsPartial ? removeStrangers() : removePartial() } catch {
      leave()
      throw error
    }
  }

  /// Where what is in an unfinished output is written down.
  package var journalPath: String { String(staging.dropLast("partial".count)) + "journal" }

  /// Bytes that an earlier run left.
  package var partialBytes: Int {
    let paths: [String] = if case .file = shape { [staging] } else { partialNames.map { staging + "/" + $0 } }
    return paths.reduce(0) { $0 + (regularFile($1).map { Int($0.st_blocks) * 512 } ?? 0) }
  }

  private func regularFile(_ path: String) -> stat? {
    var status = stat()
    return lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFREG ? status : nil
  }

  private var partialNames: [String] { (try? namesInFolder(staging)) ?? [] }

  /// Removes what an earlier run left.
  package func removePartial() throws {
    unlink(journalPath)
    switch shape {
    case .file: ftruncate(lock, 0)
    case .folder: try removeContents(of: staging)
    }
  }

  /// Removes from what an earlier run left whatever no run writes: links, pipes.
  private func removeStrangers() throws {
    guard case .folder = shape else { return }
    for name in partialNames where regularFile(staging + "/" + name) == nil { try remove(name, of: staging) }
  }

  deinit { discard() }

  /// Why `destination` may not be written, for a plan; nil where it may.
  package static func obstacle(_ destination: String, _ shape: Shape, force: Bool) -> Warning? {
    do { try checkReplaceable(destination, shape, force: force) } catch {
      return Warning(.unused, (error as? NibbleError)?.text ?? "\(path: destination): \("\(error)")")
    }
    return nil
  }

  /// Whether `destination` may be written, without touching anything.
  package static func checkReplaceable(_ destination: String, _ shape: Shape, force: Bool) throws {
    var status = stat()
    guard lstat(destination, &status) == 0 else { return }
    guard force else {
      throw NibbleError.usage("\(path: destination) exists; \(.force) replaces it")
    }
    let kind = PathKind(destination)
    switch shape {
    case .file:
      guard kind != .folder, kind != .other else {
        throw NibbleError.usage("\(path: destination) is not a regular file, and is not replaced by one")
      }
    case .folder(let owns):
      guard kind == .folder, status.st_mode & S_IFMT == S_IFDIR else {
        throw NibbleError.usage("\(path: destination) is not a folder, and is not replaced by one")
      }
      if let stranger = try namesInFolder(destination).first(where: { try !isOurs($0, in: destination, owns) }) {
        throw NibbleError.usage("\(path: destination) holds \(subject: stranger), which this command would not write")
      }
    }
  }

  /// Whether `name` in a folder is a file of ours, or a folder with nothing but such files.
  private static func isOurs(_ name: String, in folder: String, _ owns: (String) -> Bool) throws -> Bool {
    let path = folder + "/" + name
    guard PathKind(path) == .folder else { return owns(name) }
    // Whether a folder of that name could be ours, were it empty.
    guard isOwnFolder(path), owns(name + "/a.jinja") else { return false }
    return try namesInFolder(path).allSatisfy { owns(name + "/" + $0) && PathKind(path + "/" + $0) != .folder }
  }

  /// Bytes free for us where the destination will stand.
  package var freeBytes: Int? {
    var status = statvfs()
    guard statvfs(parent, &status) == 0 else { return nil }
    let (bytes, overflow) = Int(status.f_bavail).multipliedReportingOverflow(by: Int(status.f_frsize))
    return overflow ? nil : bytes + partialBytes
  }

  private func claim() throws -> Int32 {
    // A lock may be won on a name that its last holder has just renamed or removed: then try again.
    for attempt in 0..<100 {
      let descriptor: Int32
      switch shape {
      case .file:
        if PathKind(staging) == .folder { try removeStaleFolder() }
        descriptor = open(staging, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o666)
      case .folder:
        if PathKind(staging) == .file { try removeStaleFile() }
        if mkdir(staging, 0o777) != 0, errno != EEXIST {
          throw NibbleError.cannotWrite("\(path: destination): cannot be created: \(errorText(errno))")
        }
        descriptor = open(staging, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
      }
      guard descriptor >= 0 else {
        let code = errno
        // A folder may be taken away between making and opening it.
        if code == ENOENT, case .folder = shape, PathKind(staging) == .nothing, attempt < 99 { continue }
        throw NibbleError.cannotWrite("\(path: destination): cannot be created: \(errorText(code))")
      }
      guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
        close(descriptor)
        throw NibbleError.usage("\(path: destination) is being written by another process")
      }
      var held = stat()
      var named = stat()
      if fstat(descriptor, &held) == 0, lstat(staging, &named) == 0, held.st_ino == named.st_ino,
        held.st_dev == named.st_dev
      {
        return descriptor
      }
      close(descriptor)
    }
    throw NibbleError.cannotWrite("\(path: destination): \(staging) keeps changing hands")
  }

  private func removeStaleFolder() throws {
    try holdingStale(O_RDONLY | O_DIRECTORY) {
      try removeContents(of: staging)
      rmdir(staging)
    }
  }

  private func removeStaleFile() throws {
    try holdingStale(O_RDWR) { unlink(staging) }
  }

  /// Runs `remove` unless another process holds what is there.
  private func holdingStale(_ flags: Int32, _ remove: () throws -> Void) throws {
    let descriptor = open(staging, flags | O_CLOEXEC | O_NOFOLLOW)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      throw NibbleError.usage("\(path: destination) is being written by another process")
    }
    try remove()
  }

  private func removeContents(of folder: String) throws {
    var failed: NibbleError?
    for name in try namesInFolder(folder) {
      do { try remove(name, of: folder) } catch let error as NibbleError { failed = failed ?? error }
    }
    if let failed { throw failed }
  }

  private func remove(_ name: String, of folder: String) throws {
    let path = folder + "/" + name
    guard unlink(path) != 0, errno != ENOENT else { return }
    // Errors speak of this one.
    let code = errno
    if case .folder(let owns) = shape, isOwnFolder(path), try Self.isOurs(name, in: folder, owns) {
      for file in try namesInFolder(path) { unlink(path + "/" + file) }
      if rmdir(path) == 0 { return }
    }
    errno = code
    throw NibbleError.cannotWrite(
      "\(path: destination): \(folder) holds \(subject: name), which cannot be removed: \(errorText(errno))")
  }

  /// The output itself, for the shape `file`, or a new file `name` in the folder.
  package func file(_ name: String? = nil, expectedSize: Int) throws -> OutputFile {
    let path: String
    let descriptor: Int32
    let place: String
    if let name {
      path = destination + "/" + name
      place = staging + "/" + name
      if let slash = name.lastIndex(of: "/") { try makeFolder(String(name[..<slash])) }
      descriptor = open(place, O_RDWR | O_CREAT | (keepsPartial ? 0 : O_EXCL) | O_CLOEXEC | O_NOFOLLOW, 0o666)
      names.insert(name)
    } else {
      (path, place) = (destination, staging)
      descriptor = dup(lock)
    }
    guard descriptor >= 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno))") }
    return OutputFile(descriptor: descriptor, path: path, place: place, expectedSize: expectedSize)
  }

  /// Makes a folder in the folder.
  private func makeFolder(_ name: String) throws {
    let path = staging + "/" + name
    names.insert(name)
    guard mkdir(path, 0o777) == 0 || errno == EEXIST && isOwnFolder(path) else {
      throw NibbleError.cannotWrite("\(path: destination + "/" + name): cannot be created: \(errorText(errno))")
    }
  }

  /// Gives the output, a file, the owner, group, permissions and extended attributes that `file` has, which it is going to replace.
  ///
  /// - Returns: what could not be kept, in words
  package func keepPermissions(of file: InputFile) throws -> [Warning] {
    guard let (owner, group, mode) = file.permissions else {
      throw NibbleError.cannotWrite("\(path: destination): \(errorText(errno)) while reading its permissions")
    }
    var lost: [Warning] = []
    if fchown(lock, owner, group) != 0 {
      lost.append(.init(.metadata, "\(path: file.path): belonged to another user or group, which only root could leave so"))
    }
    let attributes = file.giveAttributes(to: lock)
    if attributes > 0 {
      lost.append(.init(.metadata, "\(path: file.path): \(attributes) of its extended attributes could not be kept"))
    }
    guard fchmod(lock, mode) == 0 else {
      throw NibbleError.cannotWrite("\(path: destination): \(errorText(errno)) while setting its permissions")
    }
    return lost
  }

  /// Gives the finished output its name. Every file must have been finished.
  package func publish() throws {
    try Interrupt.check()
    if case .folder = shape {
      if keepsPartial { for name in partialNames where !names.contains(name) { try remove(name, of: staging) } }
      for name in names where isOwnFolder(staging + "/" + name) {
        let folder = open(staging + "/" + name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        defer { close(folder) }
        guard folder >= 0, fsync(folder) == 0 else { throw NibbleError.cannotWrite("\(path: destination): \(errorText(errno)) while syncing") }
      }
      guard fsync(lock) == 0 else { throw NibbleError.cannotWrite("\(path: destination): \(errorText(errno)) while syncing") }
    }
    try Self.checkReplaceable(destination, shape, force: force)
    try rename()
    if keepsPartial { unlink(journalPath) }
    close(lock)
    lock = -1
    try syncNames()
  }

  /// Waits until the names of what was made are on the disk.
  package func syncNames() throws {
    let folder = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    defer { close(folder) }
    guard folder >= 0, fsync(folder) == 0 else {
      throw NibbleError.cannotWrite("\(path: destination): \(errorText(errno)) while syncing its folder")
    }
  }

  private func rename() throws {
    let exists = PathKind(destination) != .nothing
    if case .folder = shape, exists {
      // Exchanged in one step, so that there is a whole folder under the name at every moment.
      guard nibble_exchange(staging, destination) == 0 else {
        throw NibbleError.cannotWrite("\(path: destination): \(errorText(errno))")
      }
      try removeContents(of: staging)
      rmdir(staging)
      return
    }
    if force {
      guard Glibc.rename(staging, destination) == 0 else {
        throw NibbleError.cannotWrite("\(path: destination): \(errorText(errno))")
      }
      return
    }
    if nibble_rename_new(staging, destination) == 0 { return }
    // File systems without this flag say EINVAL; we have just looked that nothing is there.
    if errno == EINVAL, Glibc.rename(staging, destination) == 0 { return }
    if errno == EEXIST { throw NibbleError.usage("\(path: destination) exists; \(.force) replaces it") }
    throw NibbleError.cannotWrite("\(path: destination): \(errorText(errno))")
  }

  /// Removes everything written so far; nothing to do after `publish()`.
  package func discard() {
    guard lock >= 0 else { return }
    if keepsPartial { unlink(journalPath) }
    switch shape {
    case .file: unlink(staging)
    case .folder:
      try? removeContents(of: staging)
      rmdir(staging)
    }
    close(lock)
    lock = -1
  }

  /// Lets go of what was written without removing it: another run is to go on with it.
  package func leave() {
    guard lock >= 0 else { return }
    close(lock)
    lock = -1
  }
}

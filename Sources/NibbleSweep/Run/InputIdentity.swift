import Glibc
import NibbleCore

/// The state of the files that options name: contents of files up to 64 MB, size and time of the last change of larger ones.
///
/// Any text that leads to a file or folder counts, with `@` before it, a name and `=` before it, or a weight behind it.
struct InputIdentity {
  private static let contentLimit = 64 << 20
  private static let maximumFiles = 10_000
  private var known: [String: Digest128?] = [:]

  /// - Returns: nil where `text` leads to no file
  mutating func of(_ text: String) throws -> Digest128? {
    if let found = known[text] { return found }
    let found = try Self.path(in: text).map { try Self.state(of: $0) }
    known[text] = .some(found)
    return found
  }

  /// The file or folder that an option's text names.
  static func path(in text: String) throws -> String? {
    var candidates = [text]
    if text.hasPrefix("@") { candidates.append(String(text.dropFirst())) }
    if let equals = text.firstIndex(of: "=") { candidates.append(String(text[text.index(after: equals)...])) }
    candidates += candidates.compactMap { one in one.lastIndex(of: ":").map { String(one[..<$0]) } }
    for candidate in candidates where !candidate.isEmpty {
      switch PathKind(candidate) {
      case .file, .folder: return candidate
      default: continue
      }
    }
    return try HubCache.snapshot(text)
  }

  private static func state(of path: String) throws -> Digest128 {
    let hash = XXH3()
    if PathKind(path) == .folder {
      let names = try namesInFolder(path).filter { !$0.hasPrefix(".") }
      guard names.count <= maximumFiles else { throw NibbleError.badInput("\(path: path): a folder of \(names.count) files; at most \(maximumFiles) are read") }
      for name in names where PathKind(path + "/" + name) == .file {
        hash.update(Array(name.utf8) + [0])
        try update(hash, path + "/" + name)
      }
    } else {
      try update(hash, path)
    }
    return hash.digest128
  }

  private static func update(_ hash: XXH3, _ path: String) throws {
    let file = try InputFile(path)
    [file.size].withUnsafeBytes { hash.update($0) }
    guard file.size <= contentLimit else {
      // Size and time; not the inode, so that a copied tree stays what it was.
      var status = stat()
      guard stat(path, &status) == 0 else { throw NibbleError.badInput("\(path: path): \(errorText(errno))") }
      return [status.st_mtim.tv_sec, status.st_mtim.tv_nsec].withUnsafeBytes { hash.update($0) }
    }
    var offset = 0
    while offset < file.size {
      try Interrupt.check()
      let bytes = try file.bytes(at: offset, count: min(1 << 20, file.size - offset))
      hash.update(bytes)
      offset += bytes.count
    }
  }
}

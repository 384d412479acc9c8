/// A small text, written whole or not at all.
public enum TextFile {
  /// - Throws: `.usage` for an existing file without `force`, `.cannotWrite`
  public static func write(_ text: String, to path: String, force: Bool = false) throws {
    let staged = try StagedOutput(path, .file, force: force)
    do {
      let bytes = Array(text.utf8)
      let file = try staged.file(expectedSize: bytes.count)
      try file.write(bytes, at: 0)
      try file.finish(length: bytes.count)
      try staged.publish()
    } catch {
      staged.discard()
      throw error
    }
  }
}

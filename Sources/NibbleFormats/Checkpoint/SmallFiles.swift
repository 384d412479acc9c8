import NibbleCore

extension Checkpoint {
  /// The bytes of the small files that have one of these names, or lie in one of these folders (`folder/`), checked against their checksums.
  ///
  /// - Throws: `.badInput`, `.integrity`
  public func contents(ofSmallFiles names: [String], limit: Int = 1 << 28) throws -> [String: [UInt8]] {
    var contents: [String: [UInt8]] = [:]
    // A name that ends with a slash means all files of that folder.
    let folders = names.filter { $0.hasSuffix("/") }
    for file in smallFiles where names.contains(file.name) || folders.contains(where: file.name.hasPrefix) {
      contents[file.name] = try SectionReader(file.section, file.name).readWhole(limit: limit)
    }
    return contents
  }
}

import NibbleCore

extension Checkpoint {
  /// The bytes of the small files that have one of these names, checked against their checksums.
  ///
  /// - Throws: `.badInput`, `.integrity`
  public func contents(ofSmallFiles names: [String], limit: Int = 1 << 28) throws -> [String: [UInt8]] {
    var contents: [String: [UInt8]] = [:]
    for file in smallFiles where names.contains(file.name) {
      contents[file.name] = try SectionReader(file.section, file.name).readWhole(limit: limit)
    }
    return contents
  }
}

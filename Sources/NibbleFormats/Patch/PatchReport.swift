import NibbleCore

/// What a patch holds.
public struct PatchReport: Sendable {
  /// A block file it is for.
  public struct Side: Sendable {
    /// The content identity.
    public let identity: Digest128
    /// Bytes of the block file.
    public let bytes: Int
    /// How the content came to be, if the file says.
    public let provenance: JSON?

    init(_ head: NblHead) {
      identity = head.table.identity
      bytes = head.header.fileLength
      provenance = head.table.texts.first { $0.key == "provenance" }.flatMap { try? JSON.parse($0.value) }
    }
  }

  /// A section that differs.
  public struct Change: Sendable {
    /// The tensor or small file.
    public let name: String
    /// What of it: "codes", "scales", …
    public let kind: String
    /// Bytes in the first and in the second file, 0 where there is none.
    public let first: Int
    public let second: Int
    /// Bytes of the patch.
    public let stored: Int
  }

  public let first: Side
  public let second: Side
  /// In the order of names.
  public let changes: [Change]
  /// Sections of both files, or of one.
  public let sections: Int
  /// Bytes of the patch.
  public let bytes: Int
  /// Bytes of both tables in it.
  public let headBytes: Int
  public let seconds: Double
  /// Whether sections are compressed, whose bytes differ throughout.
  public let isCompressed: Bool

  init(_ heads: (NblHead, NblHead), _ parts: [PatchPart], _ spans: [PatchSpan], bytes: Int, seconds: Double) {
    (first, second) = (Side(heads.0), Side(heads.1))
    var stored: [Int: Int] = [:]
    for span in spans { stored[span.part, default: 0] += span.stored + PatchHeader.entryLength }
    changes = parts.enumerated().compactMap { index, part in
      guard stored[index] != nil || (part.first == nil) != (part.second == nil) || part.length(.first) != part.length(.second)
      else { return nil }
      return Change(
        name: part.name, kind: "\(part.kind)", first: part.length(.first), second: part.length(.second),
        stored: stored[index] ?? 0)
    }
    sections = parts.count
    (self.bytes, self.seconds) = (bytes, seconds)
    headBytes = heads.0.bytes.count + heads.1.bytes.count
    isCompressed = parts.contains { part in
      [part.first, part.second].contains { $0.map { $0.entry.compression != .none } ?? false }
    }
  }

  /// Whether both files hold the same, tables apart.
  public var isEmpty: Bool { changes.isEmpty }
}

extension PatchFile {
  /// What is in it.
  public var report: PatchReport { PatchReport((first, second), parts, spans, bytes: file.size, seconds: 0) }
}

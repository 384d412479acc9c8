import NibbleCore
import NibbleQuant

/// One of the two block files that a patch leads from one to the other.
enum PatchSide: Int, Sendable {
  case first, second

  var other: PatchSide { self == .first ? .second : .first }
}

/// A section of the same name and kind in both block files, or in one of them: the longer one's bytes, combined with the other's by
/// exclusive or, are what a patch holds of it. A section that is not there counts as one without bytes, a shorter one as if zeros
/// followed it.
struct PatchPart: Sendable {
  struct Section: Sendable {
    /// Its place among the sections of its file.
    let number: Int
    let entry: NblTable.Section
  }

  /// The tensor or small file it belongs to.
  let name: String
  let kind: SectionKind
  fileprivate(set) var first: Section?
  fileprivate(set) var second: Section?

  subscript(_ side: PatchSide) -> Section? { side == .first ? first : second }

  func length(_ side: PatchSide) -> Int { self[side]?.entry.storedLength ?? 0 }

  var length: Int { max(length(.first), length(.second)) }

  /// For messages.
  var description: String { "\(quoted(name)) (\(kind))" }

  /// All parts of two block files: small files, then tensors, each in ascending order of names and kinds.
  static func all(_ first: NblHead, _ second: NblHead) -> [PatchPart] {
    var (a, b) = (ordered(first)[...], ordered(second)[...])
    var parts: [PatchPart] = []
    while let one = a.first ?? b.first {
      // What comes first, or stands in both.
      let takesA = a.first.map { x in b.first.map { !isBefore($0, x) } ?? true } ?? false
      let takesB = b.first.map { y in a.first.map { !isBefore($0, y) } ?? true } ?? false
      let head = takesA ? one : (b.first ?? one)
      var part = PatchPart(name: head.name, kind: head.section.entry.kind)
      if takesA { part.first = a.removeFirst().section }
      if takesB { part.second = b.removeFirst().section }
      parts.append(part)
    }
    return parts
  }

  private typealias Named = (isTensor: Bool, name: String, section: Section)

  private static func isBefore(_ a: Named, _ b: Named) -> Bool {
    if a.isTensor != b.isTensor { return !a.isTensor }
    if ByteName(a.name) != ByteName(b.name) { return ByteName(a.name) < ByteName(b.name) }
    return a.section.entry.kind.rawValue < b.section.entry.kind.rawValue
  }

  /// Sections in the order of names and kinds, which is that of the file but for the kinds.
  private static func ordered(_ head: NblHead) -> [Named] {
    head.sections.enumerated().map { number, one in
      (one.section.kind != .file, one.name, Section(number: number, entry: one.section))
    }.sorted(by: isBefore)
  }
}

/// A run of a part that is read, combined and written at once: whole spans.
struct PatchChunk: Sendable {
  let part: Int
  let offset: Int
  let count: Int
  let isLast: Bool

  /// All parts in order; one of no bytes has one chunk of none.
  static func all(_ parts: [PatchPart]) -> [PatchChunk] {
    let size = 4 * PatchHeader.spanLength
    return parts.enumerated().flatMap { index, part in
      (0..<max(1, ceilDivide(part.length, size))).map { number in
        let offset = number * size
        let count = min(size, part.length - offset)
        return PatchChunk(part: index, offset: offset, count: count, isLast: offset + count == part.length)
      }
    }
  }
}

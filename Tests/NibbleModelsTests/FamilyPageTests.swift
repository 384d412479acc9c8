import Foundation
import NibbleFormats
import NibbleModels
import TestSupport
import Testing

@Suite("Families of models")
struct FamilyPageTests {
  private static let page = fixtures.deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("docs/families.md")

  /// One row a family: what packs and merges, what runs, and its name in llama.cpp's files.
  private static var table: String {
    let rows = ModelFamily.known.map { family in
      let names = { (types: [String]) in types.isEmpty ? "–" : types.map { "`\($0)`" }.joined(separator: ", ") }
      let gguf = family.modelTypes.filter { type in family.llamaCpp.contains { $0.modelTypes.contains(type) } }
      return "| \(family.name) | \(names(family.modelTypes.filter(family.runs))) | \(names(family.modelTypes.filter { !family.runs($0) })) | \(names(gguf)) |"
    }
    return (["| family | runs and trains | packs and merges only | GGUF files |", "|---|---|---|---|"] + rows).joined(separator: "\n") + "\n"
  }

  @Test("docs/families.md holds the table of the code's own lists; NIBBLE_WRITE_DOCS=1 writes it there")
  func page() throws {
    var text = try String(contentsOf: Self.page, encoding: .utf8)
    let marks = (begin: "<!-- table -->\n", end: "<!-- end -->\n")
    let begin = try #require(text.range(of: marks.begin)), end = try #require(text.range(of: marks.end))
    if ProcessInfo.processInfo.environment["NIBBLE_WRITE_DOCS"] != nil {
      text.replaceSubrange(begin.upperBound..<end.lowerBound, with: Self.table)
      try text.write(to: Self.page, atomically: true, encoding: .utf8)
    } else {
      #expect(text[begin.upperBound..<end.lowerBound] == Self.table)
    }
  }

  @Test("what a family says it runs has an architecture, and the other way round")
  func architectures() {
    #expect(Set(ModelFamily.known.flatMap { family in family.modelTypes.filter(family.runs) }) == Set(Architectures.all.modelTypes))
  }
}

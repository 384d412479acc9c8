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

  /// One row an entry: what takes pictures, and what its text model is called there.
  private static var texts: String {
    let rows = TextPart.all.map { part in
      let isInGguf = LlamaCppNames.of(modelType: part.usual) != nil
      return "| \(part.modelTypes.map { "`\($0)`" }.joined(separator: ", ")) | `\(part.usual)` | `\(part.whole("model.layers"))` | \(isInGguf ? "yes" : "–") |"
    }
    return (["| model_type | text model, where it does not say | its layers | GGUF files |", "|---|---|---|---|"] + rows).joined(separator: "\n") + "\n"
  }

  @Test("docs/families.md holds the table of the code's own lists; NIBBLE_WRITE_DOCS=1 writes it there")
  func page() throws {
    var text = try String(contentsOf: Self.page, encoding: .utf8)
    for (name, table) in [("table", Self.table), ("texts", Self.texts)] {
      let begin = try #require(text.range(of: "<!-- \(name) -->\n"))
      let end = try #require(text.range(of: "<!-- end -->\n", range: begin.upperBound..<text.endIndex))
      guard ProcessInfo.processInfo.environment["NIBBLE_WRITE_DOCS"] != nil else {
        #expect(text[begin.upperBound..<end.lowerBound] == table)
        continue
      }
      text.replaceSubrange(begin.upperBound..<end.lowerBound, with: table)
      try text.write(to: Self.page, atomically: true, encoding: .utf8)
    }
  }

  @Test("what a family says it runs has an architecture, and the other way round")
  func architectures() {
    #expect(Set(ModelFamily.known.flatMap { family in family.modelTypes.filter(family.runs) }) == Set(Architectures.all.modelTypes))
  }
}

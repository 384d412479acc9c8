import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("Errors and warnings")
struct NoticeTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let text: MessageText
    let path: String?
    let subject: String?
    let detail: String
    let line: String

    var testDescription: String { line }
  }

  static let cases = [
    Case(text: "nothing to train", path: nil, subject: nil, detail: "nothing to train", line: "nothing to train"),
    Case(
      text: "\(path: "a.nbl"): \(tensor: "w"): cut at byte \(7)", path: "a.nbl", subject: "w", detail: "cut at byte 7",
      line: "a.nbl: tensor 'w': cut at byte 7"),
    Case(
      text: "\(path: "a.nbl"): \(module: "h.0") is packed", path: "a.nbl", subject: "h.0", detail: "is packed",
      line: "a.nbl: module 'h.0' is packed"),
    Case(
      text: "\(path: "out") exists; \(.force) replaces it", path: "out", subject: nil, detail: "exists; force replaces it",
      line: "out exists; force replaces it"),
    Case(
      text: "\(key: "r") = \(quoted("x")) is no rank", path: nil, subject: "r", detail: "= 'x' is no rank",
      line: "r = 'x' is no rank"),
    // Only a sentence that begins with its path and subject says the rest of them.
    Case(
      text: "\(.maxError, 0.1): no tensor of \(path: "a") but \(subject: "w")", path: "a", subject: "w",
      detail: "maxError 0.1: no tensor of a but 'w'", line: "maxError 0.1: no tensor of a but 'w'"),
    Case(
      text: "\(path: "a"): 2 of 3 tensors, \(subject: "w") the first, and \(subject: "v")", path: "a", subject: "w",
      detail: "2 of 3 tensors, 'w' the first, and 'v'", line: "a: 2 of 3 tensors, 'w' the first, and 'v'"),
    Case(
      text: "\(path: "rows.jsonl:7"): empty", path: "rows.jsonl:7", subject: nil, detail: "empty", line: "rows.jsonl:7: empty"),
    Case(text: "\(path: "")", path: "", subject: nil, detail: "", line: ""),
  ]

  @Test("a sentence keeps its path, subject and detail apart", arguments: cases)
  func fields(_ one: Case) {
    let error = NibbleError(.integrity, one.text), warning = Warning(.metadata, one.text)
    for notice in [error, warning] as [any Notice] {
      #expect(notice.path == one.path)
      #expect(notice.subject == one.subject)
      #expect(notice.detail.description == one.detail)
      #expect(notice.message == one.line)
    }
    #expect("\(error)" == one.line && "\(warning)" == one.line)
  }

  @Test("an error that is passed on keeps what it is about")
  func passedOn() {
    let inner = NibbleError(.badInput, "\(path: "a/b"): \(tensor: "w") is cut")
    let more = NibbleError(inner.kind, inner.text + "; \(.resume) goes on")
    #expect(more.kind == .badInput && more.path == "a/b" && more.subject == "w")
    #expect(more.detail.description == "is cut; resume goes on")
    // The outer path is what the error is about then.
    let outer = NibbleError(inner.kind, "\(path: "rows.jsonl:3"): \(inner.text)")
    #expect(outer.path == "rows.jsonl:3" && outer.subject == "w" && outer.message == "rows.jsonl:3: a/b: tensor 'w' is cut")
    #expect(inner.text.replacing(path: "a", with: "c/d").description == "c/d/b: tensor 'w' is cut")
    #expect(inner.text.replacing(path: "a/", with: "c").path == "a/b")
    #expect("\(inner.text); x" == inner.text + "; " + "x")
  }

  @Test("options are written as asked, and never found in names")
  func settings() {
    let text: MessageText = "\(path: "--force"): \(subject: "force") needs \(.force) or \(.check, false)"
    #expect(text.written { "<\($0.name) \($1 ?? "")>" } == "--force: 'force' needs <force > or <check false>")
    let named = text.segments.compactMap { segment -> Setting? in
      if case .setting(let setting, _) = segment { setting } else { nil }
    }
    #expect(named == [.force, .check])
  }

  @Test("names cannot break the line, and stay as they are in their fields")
  func hostile() {
    let name = "a\nb\u{1B}[31m\u{202E}"
    let error = NibbleError.badInput("\(path: name): \(tensor: name): \(name)")
    #expect(error.path == name && error.subject == name)
    #expect(!error.message.unicodeScalars.contains { $0.value < 32 || $0.value == 0x202E })
    #expect(!error.detail.description.contains("\n"))
  }

  @Test("a warning knows what it is about")
  func about() {
    let warning = Warning(.unused, "\(path: "run/adapter_config.json"): \(key: "x"): not known")
    #expect(warning.isAbout("run") && warning.isAbout("run/") && warning.isAbout("run/adapter_config.json"))
    #expect(!warning.isAbout("ru") && !warning.isAbout("run/adapter") && !Warning(.unused, "run").isAbout("run"))
  }

  @Test("the library names no flags of the command line")
  func noFlags() throws {
    let sources = fixtures.deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("Sources")
    let files = try #require(FileManager.default.enumerator(at: sources, includingPropertiesForKeys: nil))
    let flag = try Regex(#"["( ]--(\\\(|[A-Za-z])"#)
    var count = 0
    for case let file as URL in files where file.pathExtension == "swift" && !file.path.contains("/Sources/nibble/") {
      count += 1
      let text = try String(contentsOf: file, encoding: .utf8)
      for line in text.components(separatedBy: "\n") where line.range(of: "--") != nil {
        let code = line.range(of: "//").map { line[..<$0.lowerBound] } ?? line[...]
        #expect(code.firstMatch(of: flag) == nil, "\(file.lastPathComponent): \(line)")
      }
    }
    #expect(count > 200)
  }
}

import NibbleCore
import Testing

@Suite("YAML of options")
struct YAMLTests {
  @Test("texts, lists and mappings")
  func reads() throws {
    guard case .mapping(let entries)? = try YAML.parse("a: 1\nb: [x, 'y z']\n# c\nd:\n  - e\n", place: "f") else {
      Issue.record("no mapping")
      return
    }
    #expect(entries.map(\.key) == ["a", "b", "d"])
    if case .sequence(let list) = entries[1].value { #expect(list.count == 2) } else { Issue.record("no list") }
    #expect(try YAML.parse("# nothing\n", place: "f").map { _ in 1 } == nil)
  }

  @Test(
    "refuses with a line",
    arguments: [
      "a: [", "a: 1\na: 2", "a: &x 1\nb: *x", "{[1]: 2}", "--- a\n--- b\n", "\u{1}", "a: \"",
      "- [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]",
    ])
  func refuses(_ text: String) {
    let error = #expect(throws: NibbleError.self) { try YAML.parse(text, place: "f.yaml") }
    #expect(error?.message.contains("f.yaml: line ") == true)
  }
}

@Suite("Strict JSON")
struct JSONTests {
  @Test(
    "accepts what JSON is",
    arguments: [
      "{}", "[]", "null", "true", "false", "0", "-1", "1.5e-3", #""""#, #""a\u00e9\n\"""#, #"{"a":[1,{"b":null}]}"#,
      " \t\n{ \"a\" : 1 } ", #""\ud83e\udd99""#, "NaN", "[Infinity,-Infinity]",
    ])
  func accepts(_ text: String) throws { _ = try JSON.parse(text) }

  @Test(
    "refuses what it is not",
    arguments: [
      "", "{", "}", "[1,]", "{\"a\":1,}", "{\"a\"}", "{a:1}", "01", "1.", ".5", "+1", "1e", "-", "tru", "nul", "\"a", "\"\\x\"",
      "\"\\ud83e\"", "\"\\ud83e\\u0041\"", "\"\\udd99\"", "\"a\nb\"", "1 2", "{} {}", "'a'", "[1 2]", "{\"a\" 1}", "\"\\u12g4\"",
      "\u{FEFF}{}",
    ])
  func refuses(_ text: String) { #expect(throws: JSONError.self) { try JSON.parse(text) } }

  @Test("refuses bytes that are not UTF-8", arguments: [[0xC3], [0xED, 0xA0, 0x80], [0xFF], [0xC0, 0x80]] as [[UInt8]])
  func refusesBadUTF8(_ bytes: [UInt8]) {
    #expect(throws: JSONError.self) { try JSON.parse([0x22] + bytes + [0x22]) }
  }

  @Test("refuses a key given twice, compared as bytes")
  func duplicates() throws {
    #expect(throws: JSONError.self) { try JSON.parse(#"{"a":1,"a":2}"#) }
    #expect(throws: JSONError.self) { try JSON.parse(#"{"a":1,"\u0061":2}"#) }
    // Equal as Swift strings, different as names.
    let json = try JSON.parse("{\"e\u{301}\":1,\"\u{E9}\":2}")
    #expect(json.members?.count == 2)
    #expect(json["\u{E9}"]?.int == 2)
  }

  @Test("stops at a depth, without using the stack up")
  func depth() throws {
    _ = try JSON.parse(String(repeating: "[", count: 64) + String(repeating: "]", count: 64))
    #expect(throws: JSONError.self) { try JSON.parse(String(repeating: "[", count: 65) + String(repeating: "]", count: 65)) }
    #expect(throws: JSONError.self) { try JSON.parse(String(repeating: "[", count: 1_000_000)) }
  }

  @Test("keeps order and spelling")
  func roundTrip() throws {
    let text = #"{"z":1e-05,"a":[1.0,100000000000000000000],"m":{"k":"\u0001"},"t":true,"n":null}"#
    #expect(try JSON.parse(text).text() == text)
  }

  @Test("writes as Python's encoder does")
  func pythonLayout() throws {
    let json: JSON = ["a": [1, 2], "b": "é🦙\n", "c": .number("0.5"), "d": [], "e": [:]]
    #expect(json.text(.python) == #"{"a": [1, 2], "b": "\u00e9\ud83e\udd99\n", "c": 0.5, "d": [], "e": {}}"#)
  }

  @Test(
    "numbers of the command line",
    arguments: [("5GB", 5_000_000_000), ("1GiB", 1 << 30), ("300MB", 300_000_000), ("4096", 4096), ("1.5kb", 1500)])
  func bytes(_ text: String, _ count: Int) { #expect(parseBytes(text) == count) }

  @Test("no sizes", arguments: ["", "GB", "-1", "1XB", "nan", "inf", "1e99"])
  func noBytes(_ text: String) { #expect(parseBytes(text) == nil) }
}

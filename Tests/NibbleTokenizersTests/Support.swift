import Foundation
import NibbleCore
import NibbleTokenizers
import Synchronization
import TestSupport
import Testing

let tokenizers = fixture("tokenizers")

/// A folder with tokenizers whose licences keep them out of this repository: `llama2`, `llama3` and `llama.cpp-suite`,
/// each with its cases as the fixtures have them.
let extraTokenizers = ProcessInfo.processInfo.environment["NIBBLE_EXTRA_TOKENIZERS"]

/// The tokenizer of a fixture; opened once, for in a debug build that takes its time.
func opened(_ form: String) throws -> Tokenizer {
  if let tokenizer = shelf.withLock({ $0[form] }) { return tokenizer }
  let tokenizer = try Tokenizer.open(tokenizers + "/" + form)
  shelf.withLock { $0[form] = tokenizer }
  return tokenizer
}

private let shelf = Mutex<[String: Tokenizer]>([:])

/// A row of `cases.jsonl` or `special_cases.jsonl`.
struct Case: Decodable {
  var text: String
  var ids: [Int]
  var ids_with_special: [Int]?
  var ids_special_as_text: [Int]?
  var decoded: String?
}

/// A row of `pair_cases.jsonl`.
struct PairCase: Decodable {
  var a: String
  var b: String
  var ids: [Int]
  var type_ids: [Int]
}

func rows<Row: Decodable>(_ path: String, as row: Row.Type = Row.self) throws -> [Row] {
  try Data(contentsOf: URL(fileURLWithPath: path)).split(separator: UInt8(ascii: "\n")).map {
    try JSONDecoder().decode(Row.self, from: $0)
  }
}

/// Texts are compared by their scalars: to Swift, `é` is equal however it is composed.
func same(_ a: String, _ b: String) -> Bool { a.unicodeScalars.elementsEqual(b.unicodeScalars) }

/// Checks everything a row says, and that decoding in pieces is decoding.
func check(_ row: Case, _ tokenizer: Tokenizer) throws {
  let bare = try tokenizer.encode(row.text, addSpecialTokens: false)
  #expect(bare.ids == row.ids, "\(row.text.debugDescription)")
  if let expected = row.ids_with_special {
    #expect(try tokenizer.encode(row.text).ids == expected, "\(row.text.debugDescription)")
  }
  if let expected = row.ids_special_as_text {
    #expect(try tokenizer.encode(row.text, addSpecialTokens: false, specialAsText: true).ids == expected)
  }
  if let expected = row.decoded {
    let decoded = try tokenizer.decode(row.ids)
    #expect(same(decoded, expected), "\(row.text.debugDescription) came back as \(decoded.debugDescription)")
  }
  try checkStreaming(row.ids, tokenizer)
}

/// Checks that pieces put together are the whole, and that none of them holds half a character.
func checkStreaming(_ ids: [Int], _ tokenizer: Tokenizer, skipSpecialTokens: Bool = false) throws {
  let whole = try tokenizer.decode(ids, skipSpecialTokens: skipSpecialTokens)
  var decoder = tokenizer.streamingDecoder(skipSpecialTokens: skipSpecialTokens)
  var pieces = try ids.map { try decoder.feed($0) }
  pieces.append(try decoder.finish())
  #expect(same(pieces.joined(), whole))
  if !whole.unicodeScalars.contains("\u{FFFD}") {
    #expect(!pieces.contains { $0.unicodeScalars.contains("\u{FFFD}") })
  }
}

/// A folder with these files, and the tokenizer in it.
func withFiles(_ files: [String: String]) throws -> (folder: TemporaryFolder, tokenizer: Tokenizer) {
  let folder = TemporaryFolder()
  for (name, text) in files { try folder.write(name, text) }
  return (folder, try Tokenizer.open(folder.path))
}

/// A tokenizer.json of byte tokens, with these parts beside the model.
func bytesTokenizer(_ parts: String, merges: String = "[]") -> String {
  let vocabulary = (0..<256).map { "\"\(String(format: "<0x%02X>", $0))\":\($0)" }.joined(separator: ",")
  return """
    {"version":"1.0",\(parts)\(parts.isEmpty ? "" : ",")"model":{"type":"BPE","byte_fallback":true,\
    "end_of_word_suffix":"|","vocab":{\(vocabulary)},"merges":\(merges)}}
    """
}

import NibbleCore
import NibbleTokenizers

/// A model's tokenizer and what its files say beside that: what llama.cpp's converter reads of them.
struct TokenizerText {
  /// Where the files are, for messages.
  let place: String
  /// The small files by name.
  let files: [String: [UInt8]]
  /// tokenizer.json without its model.
  private(set) var rest: [String: JSON] = [:]
  /// Its model without vocabulary and merges.
  private(set) var model: [String: JSON] = [:]
  /// Merges as llama.cpp writes them: two tokens with a space between them.
  private(set) var merges: [String] = []
  /// Scores of a Unigram vocabulary.
  private(set) var scores: [Double] = []
  let configuration: JSON?

  /// Files of a model that are read.
  static let names =
    Tokenizer.fileNames + ["sentencepiece.bpe.model", "chat_template.json", "chat_template.jinja", "modules.json", "additional_chat_templates/"]

  /// - Throws: `.badInput`
  init(_ files: [String: [UInt8]], place: String) throws {
    (self.files, self.place) = (files, place)
    configuration = try Self.json(files, "tokenizer_config.json", place)
    if let bytes = files["tokenizer.json"] { try read(bytes) }
    if merges.isEmpty, let bytes = files["merges.txt"] { merges = Self.merges(ofText: bytes) }
  }

  /// A file by its name.
  subscript(name: String) -> [UInt8]? { files[name] }
  var hasTokenizerJSON: Bool { files["tokenizer.json"] != nil }

  /// A configuration file; nil where there is none.
  func json(_ name: String) throws -> JSON? { try Self.json(files, name, place) }

  private static func json(_ files: [String: [UInt8]], _ name: String, _ place: String) throws -> JSON? {
    guard let bytes = files[name] else { return nil }
    do throws(JSONError) { return try JSON.parse(bytes) } catch {
      throw NibbleError.badInput("\(path: "\(place)/\(name)"): \(error.reason) at byte \(error.offset)")
    }
  }

  /// A text file.
  func text(_ name: String) throws -> String? {
    guard let bytes = files[name] else { return nil }
    guard let text = String(validating: bytes, as: UTF8.self) else { throw NibbleError.badInput("\(path: "\(place)/\(name)"): not UTF-8") }
    return text
  }

  /// Chat templates beside the first, by name.
  func moreTemplates() throws -> [(name: String, text: String)] {
    let folder = "additional_chat_templates/", ending = ".jinja"
    return try files.keys.filter { $0.hasPrefix(folder) && $0.hasSuffix(ending) }.sorted().map { name in
      (String(name.dropFirst(folder.count).dropLast(ending.count)), try text(name) ?? "")
    }
  }

  private mutating func read(_ bytes: [UInt8]) throws {
    var (rest, model, merges, scores) = ([String: JSON](), [String: JSON](), [String](), [Double]())
    do {
      try bytes.withUnsafeBytes { buffer in
        var reader = JSONReader(buffer)
        try reader.object { reader, key throws(JSONError) in
          guard key == "model" else { return rest[key] = try JSON(reading: &reader) }
          try reader.object { reader, key throws(JSONError) in
            switch key {
            case "vocab": try Self.readVocabulary(&reader, &scores)
            case "merges": try Self.readMerges(&reader, &merges)
            default: model[key] = try JSON(reading: &reader)
            }
          }
        }
        try reader.end()
      }
    } catch let error as JSONError {
      throw NibbleError.badInput("\(path: "\(place)/tokenizer.json"): \(error.reason) at byte \(error.offset)")
    }
    (self.rest, self.model, self.merges, self.scores) = (rest, model, merges, scores)
  }

  private static func readVocabulary(_ reader: inout JSONReader, _ scores: inout [Double]) throws(JSONError) {
    guard reader.peek() == UInt8(ascii: "[") else {
      return try reader.object { reader, _ throws(JSONError) in _ = try reader.number() }
    }
    var found: [Double] = []
    try reader.array { reader throws(JSONError) in found.append(try JSON(reading: &reader).array?.last?.double ?? 0) }
    scores = found
  }

  private static func readMerges(_ reader: inout JSONReader, _ merges: inout [String]) throws(JSONError) {
    var found: [String] = []
    try reader.array { reader throws(JSONError) in
      if reader.peek() == UInt8(ascii: "\"") { return found.append(try reader.string()) }
      var pair: [String] = []
      // A space in a token is spelled as the byte alphabet has it, so that the one between the tokens is the only one.
      try reader.array { reader throws(JSONError) in pair.append(try reader.string().replacing(scalar: " ", with: "Ġ")) }
      found.append(pair.joined(separator: " "))
    }
    merges = found
  }

  private static func merges(ofText bytes: [UInt8]) -> [String] {
    bytes.split(separator: UInt8(ascii: "\n")).enumerated().compactMap { index, line in
      if index == 0, line.first == UInt8(ascii: "#") { return nil }
      let parts = line.split { [0x20, 0x09, 0x0D].contains($0) }
      return parts.count == 2 ? String(decoding: parts[0] + [0x20] + parts[1], as: UTF8.self) : nil
    }
  }
}

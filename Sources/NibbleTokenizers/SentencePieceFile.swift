import NibbleCore

/// What nibble needs to know of a SentencePiece model beside what the library does with it.
///
/// The file is read here first, field by field, and checked: the library trusts it in places.
struct SentencePieceFile {
  var pieces: [(text: [UInt8], score: Float, kind: SentencePieceText.Kind)] = []
  var isBytePairs = false
  var unknownSurface = Array(" ⁇ ".utf8)
  var addsDummyPrefix = true
  var removesExtraSpaces = true
  var escapesSpaces = true
  var treatsSpaceAsSuffix = false
  var characterMap: [UInt8] = []
  var hasCharacterMap: Bool { !characterMap.isEmpty }
  var hasDenormalizer = false
  var bos = 1
  var eos = 2
  var pad = -1
  var unknown = 0

  /// Reads a `ModelProto`.
  init(_ bytes: [UInt8], place: String) throws {
    var reader = ProtobufReader(bytes[...], place: place)
    while let (field, value) = try reader.next() {
      switch (field, value) {
      case (1, .bytes(let message)): try readPiece(message, place)
      case (2, .bytes(let message)): try readTrainer(message, place)
      case (3, .bytes(let message)): try readNormalizer(message, place)
      case (5, .bytes(let message)):
        var fields = ProtobufReader(message, place: place)
        while let (field, value) = try fields.next() {
          if field == 2, case .bytes(let map) = value, !map.isEmpty {
            hasDenormalizer = true
            _ = try CharacterMap(Array(map), place: place)
          }
        }
      default: break
      }
    }
    guard !pieces.isEmpty else { throw NibbleError.badInput("\(path: place): a SentencePiece model without pieces") }
    guard pieces.count <= Vocabulary.maximumID else { throw NibbleError.badInput("\(path: place): \(pieces.count) pieces") }
  }

  private mutating func readPiece(_ message: ArraySlice<UInt8>, _ place: String) throws {
    var fields = ProtobufReader(message, place: place)
    var text: [UInt8] = []
    var score: Float = 0
    var kind = SentencePieceText.Kind.normal
    while let (field, value) = try fields.next() {
      switch (field, value) {
      case (1, .bytes(let bytes)): text = Array(bytes)
      case (2, .word(let bits)): score = Float(bitPattern: bits)
      case (3, .number(let number)):
        guard let known = UInt8(exactly: number).flatMap(SentencePieceText.Kind.init) else {
          throw NibbleError.badInput("\(path: place): piece \(pieces.count) is of an unknown type \(number)")
        }
        kind = known
      default: break
      }
    }
    guard score.isFinite else { throw NibbleError.badInput("\(path: place): the score of piece \(pieces.count) is not finite") }
    guard !text.isEmpty, !text.contains(0), String(validating: text, as: UTF8.self) != nil else {
      throw NibbleError.badInput("\(path: place): piece \(pieces.count) is no text")
    }
    if kind == .byte, DecodeStage.byte(of: text) == nil {
      throw NibbleError.badInput("\(path: place): piece \(pieces.count), \(shown(text)), is no byte")
    }
    pieces.append((text, score, kind))
  }

  private mutating func readTrainer(_ message: ArraySlice<UInt8>, _ place: String) throws {
    var fields = ProtobufReader(message, place: place)
    while let (field, value) = try fields.next() {
      switch (field, value) {
      case (3, .number(let type)): isBytePairs = type == 2
      case (24, .number(let flag)): treatsSpaceAsSuffix = flag != 0
      // Negative numbers are written as 64 bits.
      case (40, .number(let id)): unknown = Int(Int32(truncatingIfNeeded: id))
      case (41, .number(let id)): bos = Int(Int32(truncatingIfNeeded: id))
      case (42, .number(let id)): eos = Int(Int32(truncatingIfNeeded: id))
      case (43, .number(let id)): pad = Int(Int32(truncatingIfNeeded: id))
      case (44, .bytes(let text)): unknownSurface = Array(text)
      default: break
      }
    }
  }

  private mutating func readNormalizer(_ message: ArraySlice<UInt8>, _ place: String) throws {
    var fields = ProtobufReader(message, place: place)
    while let (field, value) = try fields.next() {
      switch (field, value) {
      case (2, .bytes(let map)) where !map.isEmpty:
        characterMap = Array(map)
        _ = try CharacterMap(characterMap, place: place)
      case (3, .number(let flag)): addsDummyPrefix = flag != 0
      case (4, .number(let flag)): removesExtraSpaces = flag != 0
      case (5, .number(let flag)): escapesSpaces = flag != 0
      default: break
      }
    }
  }
}

/// Reads the fields of a protocol buffer, one after another.
struct ProtobufReader {
  enum Value {
    case number(UInt64)
    case word(UInt32)
    case long
    case bytes(ArraySlice<UInt8>)
  }

  private var rest: ArraySlice<UInt8>
  private let place: String

  init(_ bytes: ArraySlice<UInt8>, place: String) {
    rest = bytes
    self.place = place
  }

  private var truncated: NibbleError {
    .badInput("\(path: place): not a SentencePiece model, or one that is cut off or damaged at byte \(rest.startIndex)")
  }

  private mutating func number() throws -> UInt64 {
    var value: UInt64 = 0
    for shift in stride(from: UInt64(0), to: 70, by: 7) {
      guard let byte = rest.popFirst() else { throw truncated }
      value |= UInt64(byte & 0x7F) << shift
      if byte < 0x80 { return value }
    }
    throw truncated
  }

  mutating func next() throws -> (field: UInt64, value: Value)? {
    if rest.isEmpty { return nil }
    let key = try number()
    guard key >> 3 > 0 else { throw truncated }
    switch key & 7 {
    case 0: return (key >> 3, .number(try number()))
    case 1:
      guard rest.count >= 8 else { throw truncated }
      rest.removeFirst(8)
      return (key >> 3, .long)
    case 2:
      guard let length = Int(exactly: try number()), length <= rest.count else { throw truncated }
      defer { rest.removeFirst(length) }
      return (key >> 3, .bytes(rest.prefix(length)))
    case 5:
      guard rest.count >= 4 else { throw truncated }
      let word = rest.prefix(4).reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
      rest.removeFirst(4)
      return (key >> 3, .word(word))
    default: throw truncated
    }
  }
}

import NibbleCore

/// The header of a safetensors file, checked whole: every byte of the file belongs to exactly one tensor.
public struct SafetensorsHeader: Sendable {
  /// What the format's own library allows.
  public static let maximumLength = 100_000_000

  /// A tensor as the header describes it.
  public struct Entry: Sendable {
    /// Its name.
    public let name: ByteName
    /// The type of its elements.
    public let dtype: DType
    /// Its dimensions.
    public let shape: [Int]
    /// Where the tensor lies in the file.
    public let range: Range<Int>
  }

  /// In the order of their bytes.
  public private(set) var entries: [Entry] = []
  /// `__metadata__`, in the order of the file.
  public private(set) var metadata: [(key: String, value: String)] = []

  /// Reads the header of `file`.
  ///
  /// - Throws: `.badInput` naming the file, the tensor and what is wrong with it.
  package init(of file: InputFile) throws {
    let start = try file.bytes(at: 0, count: min(file.size, 64))
    // Only what cannot be a header is looked at as something else: a length may look like another's magic.
    func refuse(_ reason: MessageText) -> NibbleError {
      .badInput("\(path: file.path): \(Self.foreignFormat(start) ?? reason)")
    }
    guard start.count >= 8 else { throw refuse("\(start.count) bytes are too few for a safetensors header") }
    let declared = start[0..<8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    guard declared <= UInt64(Self.maximumLength) else {
      throw refuse("the header claims \(declared) bytes, more than the \(Self.maximumLength) the format allows")
    }
    let length = Int(declared)
    guard length <= file.size - 8 else {
      throw refuse(
        "the header claims \(length) bytes, but only \(file.size - 8) follow; the file is cut or no safetensors")
    }
    let text = try file.bytes(at: 8, count: length)
    guard text.first == UInt8(ascii: "{") else {
      throw refuse("the header does not begin with '{'")
    }
    do {
      try text.withUnsafeBufferPointer { buffer throws(JSONError) in
        try parse(UnsafeRawBufferPointer(buffer), dataStart: 8 + length)
      }
    } catch {
      throw NibbleError.badInput("\(path: file.path): header: \(error.reason) at byte \(8 + error.offset)")
    }
    try checkTiling(file, dataStart: 8 + length)
  }

  /// What a file is that people mistake for safetensors.
  static func foreignFormat(_ start: [UInt8]) -> MessageText? {
    if start.starts(with: Array("version https://git-lfs".utf8)) {
      return "this is a Git LFS pointer, not the file it stands for; fetch it with 'git lfs pull'"
    }
    if start.starts(with: Array("GGUF".utf8)) { return "this is a GGUF file; give it a name that ends in .gguf" }
    if start.starts(with: [0x50, 0x4B, 3, 4]) || (start.count > 1 && start[0] == 0x80 && (2...5).contains(start[1])) {
      return "this is a pickle file, which can run code when loaded and is not read; convert it to safetensors"
    }
    return nil
  }

  private mutating func parse(_ text: UnsafeRawBufferPointer, dataStart: Int) throws(JSONError) {
    var reader = JSONReader(text)
    var entries: [Entry] = []
    var metadata: [(key: String, value: String)] = []
    try reader.object { reader, name throws(JSONError) in
      if name == "__metadata__" {
        // MLX writes null where it has none.
        if reader.takeWord("null") { return }
        try reader.object { reader, key throws(JSONError) in
          guard reader.peek() == UInt8(ascii: "\"") else {
            throw reader.error("metadata \(quoted(key)) is not a text")
          }
          metadata.append((key, try reader.string()))
        }
      } else {
        entries.append(try Self.entry(name, &reader, dataStart))
      }
    }
    try reader.end()
    self.entries = entries
    self.metadata = metadata
  }

  private static func entry(_ name: String, _ reader: inout JSONReader, _ dataStart: Int) throws(JSONError) -> Entry {
    let start = reader.offset
    var dtype: DType?
    var shape: [Int]?
    var offsets: [Int] = []
    try reader.object { reader, key throws(JSONError) in
      switch key {
      case "dtype":
        let spelled = try reader.string()
        guard let known = DType(rawValue: spelled) else {
          throw reader.error("tensor \(quoted(name)) has the unknown dtype \(quoted(spelled))")
        }
        dtype = known
      case "shape":
        var dimensions: [Int] = []
        try reader.array { reader throws(JSONError) in
          do throws(JSONError) { dimensions.append(try reader.count()) } catch {
            throw JSONError(offset: error.offset, reason: "shape of tensor \(quoted(name)): \(error.reason)")
          }
          if dimensions.count > 1000 { throw reader.error("tensor \(quoted(name)) has more than 1000 dimensions") }
        }
        shape = dimensions
      case "data_offsets":
        try reader.array { reader throws(JSONError) in
          do throws(JSONError) { offsets.append(try reader.count()) } catch {
            throw JSONError(offset: error.offset, reason: "data_offsets of tensor \(quoted(name)): \(error.reason)")
          }
          if offsets.count > 2 { throw reader.error("data_offsets of tensor \(quoted(name)) are not two numbers") }
        }
      default: throw reader.error("tensor \(quoted(name)) has the unknown key \(quoted(key))")
      }
    }
    guard let dtype, let shape, offsets.count == 2 else {
      throw reader.error("tensor \(quoted(name)) lacks its dtype, its shape or two data_offsets", at: start)
    }
    let (begin, overflow1) = dataStart.addingReportingOverflow(offsets[0])
    let (end, overflow2) = dataStart.addingReportingOverflow(offsets[1])
    guard !overflow1, !overflow2, begin <= end else {
      throw reader.error(
        "data_offsets of tensor \(quoted(name)) run from \(offsets[0]) to \(offsets[1])", at: start)
    }
    guard let count = elementCount(of: shape), let bytes = dtype.byteCount(of: count) else {
      throw reader.error(
        "tensor \(quoted(name)) of dtype \(dtype.rawValue) and shape \(shape) has no size in whole bytes", at: start)
    }
    guard bytes == end - begin else {
      throw reader.error(
        "tensor \(quoted(name)) of dtype \(dtype.rawValue) and shape \(shape) takes \(bytes) bytes, "
          + "its data_offsets span \(end - begin)", at: start)
    }
    return Entry(name: ByteName(name), dtype: dtype, shape: shape, range: begin..<end)
  }

  /// The tensors must follow one another from the header to the end of the file.
  private mutating func checkTiling(_ file: InputFile, dataStart: Int) throws {
    entries.sort { ($0.range.lowerBound, $0.range.upperBound) < ($1.range.lowerBound, $1.range.upperBound) }
    var at = dataStart
    for entry in entries {
      guard entry.range.upperBound <= file.size else {
        throw NibbleError.badInput(
          "\(path: file.path): \(tensor: entry.name.text) ends at byte \(entry.range.upperBound), "
            + "the file at \(file.size); it is cut")
      }
      guard entry.range.lowerBound == at else {
        let what = entry.range.lowerBound < at ? "overlaps the tensor before it" : "leaves a hole before it"
        throw NibbleError.badInput(
          "\(path: file.path): \(tensor: entry.name.text) starts at byte \(entry.range.lowerBound), "
            + "expected \(at): it \(what)")
      }
      at = entry.range.upperBound
    }
    guard at == file.size else {
      throw NibbleError.badInput(
        "\(path: file.path): \(file.size - at) bytes follow the last tensor, which ends at byte \(at)")
    }
  }
}

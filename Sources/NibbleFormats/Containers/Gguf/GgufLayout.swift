import NibbleCore

/// Where everything will stand in the GGUF files to be written, known before the first byte is.
///
/// As gguf-py writes them: header, metadata, tensor table, then data; tensors and their beginning at multiples of 32, the last one filled
/// up too.
struct GgufLayout: Sendable {
  struct Tensor: Sendable {
    let name: String
    /// Rows first; the file has it the other way round.
    var shape: [Int]
    /// ggml's number of the type.
    let type: Int
    /// Bytes.
    var length: Int
    /// The bytes, where they are known beforehand.
    var content: [UInt8]?
    /// How many tensors of a job it is made of, one behind the other: the experts of a layer.
    var parts = 1
  }

  struct Shard: Sendable {
    private let metadata: [EncodedMetadata]
    let tensors: [Tensor]
    /// Bytes before the data.
    let headerLength: Int

    init(_ metadata: [EncodedMetadata], _ tensors: [Tensor]) {
      (self.metadata, self.tensors) = (metadata, tensors)
      // A magic, a version and two counts; of each tensor a text, its dimensions, a type and an offset.
      let table = tensors.reduce(0) { $0 + 8 + $1.name.utf8.count + 4 + 8 * $1.shape.count + 4 + 8 }
      headerLength = GgufLayout.padded(metadata.reduce(GgufFile.magic.count + 20 + table) { $0 + $1.bytes.count })
    }

    /// Everything before the data, in pieces.
    var header: [[UInt8]] { GgufLayout.header(metadata, tensors, length: headerLength) }
    /// Bytes of the file.
    var length: Int { tensors.reduce(headerLength) { $0 + GgufLayout.padded($1.length) } }
  }

  static let alignment = 32
  static let version = 3

  let shards: [Shard]

  /// - Parameter maximumShard: bytes of tensors that a file holds at most, unless one tensor is larger
  init(_ metadata: EncodedMetadata, _ tensors: [Tensor], maximumShard: Int = .max) {
    var parts: [[Tensor]] = [[]]
    var filled = 0
    for tensor in tensors {
      if !parts[parts.count - 1].isEmpty, tensor.length > maximumShard - min(filled, maximumShard) {
        parts.append([])
        filled = 0
      }
      parts[parts.count - 1].append(tensor)
      filled += tensor.length
    }
    shards = parts.indices.map { index in
      var own = GgufMetadata()
      if parts.count > 1 {
        own["split.no"] = .u16(UInt16(truncatingIfNeeded: index))
        own["split.count"] = .u16(UInt16(truncatingIfNeeded: parts.count))
        own["split.tensors.count"] = .i32(Int32(truncatingIfNeeded: tensors.count))
      }
      let known = index == 0 ? [metadata, own.encoded] : [own.encoded]
      return Shard(known, parts[index])
    }
  }

  /// The name of a file in a folder, as llama.cpp's gguf-split calls them.
  func name(of shard: Int) -> String {
    func padded(_ number: Int) -> String { String(repeating: "0", count: max(0, 5 - String(number).count)) + String(number) }
    return shards.count == 1 ? "model.gguf" : "model-\(padded(shard + 1))-of-\(padded(shards.count)).gguf"
  }

  /// Bytes of all files.
  var size: Int { shards.reduce(0) { $0 + $1.length } }

  static func padded(_ count: Int) -> Int { ceilDivide(count, alignment) * alignment }

  private static func header(_ metadata: [EncodedMetadata], _ tensors: [Tensor], length: Int) -> [[UInt8]] {
    var start = ByteWriter()
    start.append(GgufFile.magic)
    start.u32(version)
    start.u64(tensors.count)
    start.u64(metadata.reduce(0) { $0 + $1.count })
    var out = ByteWriter()
    var offset = 0
    for tensor in tensors {
      out.ggufText(tensor.name)
      out.u32(tensor.shape.count)
      for dimension in tensor.shape.reversed() { out.u64(dimension) }
      out.u32(tensor.type)
      out.u64(offset)
      offset += padded(tensor.length)
    }
    let filled = metadata.reduce(start.bytes.count + out.bytes.count) { $0 + $1.bytes.count }
    out.append([UInt8](repeating: 0, count: max(0, length - filled)))
    return [start.bytes] + metadata.map(\.bytes) + [out.bytes]
  }
}

/// One GGUF file on its way: its header, then its tensors one after another.
final class GgufOutput {
  private let file: OutputFile
  private let shard: GgufLayout.Shard
  private var next = 0
  /// Parts that are there of the tensor whose turn it is.
  private var parts = 0
  /// Where the next tensor goes.
  let cursor: SectionCursor

  /// Writes the header, and what is known beforehand of the tensors after it.
  init(_ staged: StagedOutput, name: String?, _ shard: GgufLayout.Shard) throws {
    self.shard = shard
    file = try staged.file(name, expectedSize: shard.length)
    cursor = SectionCursor(file, at: shard.headerLength, alignment: GgufLayout.alignment)
    var at = 0
    for piece in shard.header {
      try file.write(piece, at: at)
      at += piece.count
    }
    try writeKnown()
  }

  /// Whether every tensor is there.
  var isFull: Bool { next == shard.tensors.count }

  /// The tensor whose turn it is.
  var tensor: GgufLayout.Tensor? { isFull ? nil : shard.tensors[next] }

  /// Takes note that the tensor whose turn it was is written, or a part of it: parts follow one another without a gap.
  func close() throws {
    parts += 1
    let isWhole = parts == tensor?.parts
    cursor.alignment = isWhole ? GgufLayout.alignment : 1
    guard isWhole else { return }
    (next, parts) = (next + 1, 0)
    try writeKnown()
  }

  private func writeKnown() throws {
    while let content = tensor?.content {
      try file.write(content, at: try cursor.align(), advancing: cursor)
      next += 1
    }
  }

  /// Brings all that was written to the disk.
  func sync() throws { try file.sync() }

  /// Fills the file up.
  ///
  /// - Returns: its bytes
  func finish() throws -> Int {
    let length = try cursor.align()
    guard isFull, length == shard.length else {
      throw NibbleError(.failed, "\(path: file.path): \(length) bytes where \(shard.length) were planned")
    }
    try file.finish(length: length)
    return length
  }
}

extension OutputFile {
  fileprivate func write(_ bytes: [UInt8], at offset: Int, advancing cursor: SectionCursor) throws {
    try write(bytes, at: offset)
    _ = cursor.advance(bytes.count)
  }
}

import NibbleCore
import NibbleQuant

/// The table of a block file: identity, codebooks, texts, small files, tensors.
///
/// Its length depends only on names, shapes and codecs, so a writer knows where the sections begin before it has
/// written the first.
struct NblTable {
  var identity = Digest128(high: 0, low: 0)
  var codebooks: [Codebook] = []
  /// Key and value: `metadata`, `provenance`.
  var texts: [(key: String, value: String)] = []
  var files: [(name: String, section: Section)] = []
  var tensors: [Tensor] = []

  struct Section {
    var kind: SectionKind
    var compression = Compression.none
    var offset = 0
    var storedLength = 0
    var plainLength = 0
    var checksum: UInt64 = 0
  }

  struct Tensor {
    var name: String
    var dtype: DType
    var isTransposed: Bool
    var shape: [Int]
    var encoding: WeightEncoding
    var storage: DType
    var digest = Digest128(high: 0, low: 0)
    var sections: [Section]
  }

  static let noCodebook = 0xFFFF

  var bytes: [UInt8] {
    var out = ByteWriter()
    out.digest(identity)
    out.u32(codebooks.count)
    out.u32(texts.count)
    out.u32(files.count)
    out.u32(tensors.count)
    for book in codebooks {
      out.u32(book.bits.count)
      out.append(book.bytes)
    }
    for (key, value) in texts {
      out.text(key)
      out.text(value)
    }
    for (name, section) in files {
      out.text(name)
      Self.write(section, &out)
    }
    for tensor in tensors { write(tensor, &out) }
    return out.bytes
  }

  /// Bytes that an entry takes beside those of a table.
  func byteCount(of tensor: Tensor) -> Int {
    var out = ByteWriter()
    write(tensor, &out)
    return out.bytes.count
  }

  private func write(_ tensor: Tensor, _ out: inout ByteWriter) {
    out.text(tensor.name)
    out.u8(tensor.dtype.tableCode)
    out.u8(tensor.isTransposed ? 1 : 0)
    out.u16(tensor.sections.count)
    out.u32(tensor.shape.count)
    for dimension in tensor.shape { out.u64(dimension) }
    var parameters = CodecParameters(codebooks: codebooks, storage: tensor.storage)
    tensor.encoding.codec.writeParameters(&parameters)
    out.u16(Int(tensor.encoding.kind.number))
    out.u16(parameters.out.bytes.count)
    out.append(parameters.out.bytes)
    out.digest(tensor.digest)
    for section in tensor.sections { Self.write(section, &out) }
  }

  private static func write(_ section: Section, _ out: inout ByteWriter) {
    out.u16(Int(section.kind.rawValue))
    out.u8(section.compression.rawValue)
    out.append([0, 0, 0, 0, 0])
    out.u64(section.offset)
    out.u64(section.storedLength)
    out.u64(section.plainLength)
    out.u64(section.checksum)
  }
}

extension NblTable {
  init(_ bytes: [UInt8], place: MessageText) throws {
    var reader = ByteReader(bytes, place: place)
    identity = try reader.digest()
    let counts = (try reader.u32(), try reader.u32(), try reader.u32(), try reader.u32())
    for _ in 0..<counts.0 {
      let count = try reader.u32()
      guard count == 16 || count == 256, let book = Codebook(bytes: try reader.take(4 * count)) else {
        throw reader.fail("a codebook that is not 16 or 256 finite values")
      }
      codebooks.append(book)
    }
    for _ in 0..<counts.1 {
      let key = try reader.text()
      guard !texts.contains(where: { ByteName($0.key) == ByteName(key) }) else {
        throw reader.fail("text \(subject: key) twice")
      }
      texts.append((key, try reader.text()))
    }
    for _ in 0..<counts.2 {
      let name = try reader.text()
      let section = try Self.section(&reader)
      guard section.kind == .file, ModelFileNames.isPlain(name) else {
        throw reader.fail("an embedded file of the name \(subject: name)")
      }
      files.append((name, section))
    }
    for _ in 0..<counts.3 { tensors.append(try tensor(&reader)) }
    guard reader.isAtEnd else { throw reader.fail("bytes after the last tensor") }
    for (a, b) in zip(tensors, tensors.dropFirst()) where ByteName(a.name) >= ByteName(b.name) {
      throw reader.fail("\(tensor: b.name) out of order")
    }
    for (a, b) in zip(files, files.dropFirst()) where ByteName(a.name) >= ByteName(b.name) {
      throw reader.fail("file \(subject: b.name) out of order")
    }
  }

  private func tensor(_ reader: inout ByteReader) throws -> Tensor {
    let name = try reader.text()
    let dtypeCode = try reader.u8()
    let flags = try reader.u8()
    let sectionCount = try reader.u16()
    let rank = try reader.u32()
    guard name != "__metadata__" else { throw reader.fail("a tensor of the name '__metadata__'") }
    guard let dtype = DType(tableCode: dtypeCode), flags <= 1, rank <= 1000 else {
      throw reader.fail("\(tensor: name) of unknown dtype, flags or rank")
    }
    var shape: [Int] = []
    for _ in 0..<rank { shape.append(try reader.count()) }
    guard let count = elementCount(of: shape), dtype.byteCount(of: count) != nil else {
      throw reader.fail("\(tensor: name) whose shape makes no size")
    }
    let (encoding, storage) = try encoding(&reader, name)
    guard flags == 0 || rank == 2 && encoding.isPacked else {
      throw reader.fail("\(tensor: name) is said to be transposed, but is no packed matrix")
    }
    var tensor = Tensor(
      name: name, dtype: dtype, isTransposed: flags & 1 != 0, shape: shape, encoding: encoding, storage: storage,
      digest: try reader.digest(), sections: [])
    for _ in 0..<sectionCount { tensor.sections.append(try Self.section(&reader)) }
    try Self.check(tensor, count, reader)
    return tensor
  }

  private func encoding(_ reader: inout ByteReader, _ name: String) throws -> (WeightEncoding, DType) {
    let number = try reader.u16()
    let bytes = try reader.take(try reader.u16())
    guard let kind = Codecs.numbered(number) else {
      throw reader.fail("\(tensor: name) is coded with codec \(number), which this nibble does not know")
    }
    var parameters = CodecParameters(reader.inner(bytes), codebooks: codebooks)
    guard let codec = try kind.read(&parameters), parameters.input.isAtEnd else {
      throw reader.fail("\(tensor: name) with codec parameters that make no sense")
    }
    return (WeightEncoding(codec), parameters.storage)
  }

  private static func section(_ reader: inout ByteReader) throws -> Section {
    let kindNumber = try reader.u16()
    let compressionNumber = try reader.u8()
    guard let kind = SectionKind(rawValue: UInt16(kindNumber)), let compression = Compression(rawValue: compressionNumber),
      try reader.take(5) == [0, 0, 0, 0, 0]
    else { throw reader.fail("a section of unknown kind \(kindNumber) or compression \(compressionNumber)") }
    let section = Section(
      kind: kind, compression: compression, offset: try reader.count(), storedLength: try reader.count(),
      plainLength: try reader.count(), checksum: try reader.u64())
    guard section.compression != .none || section.storedLength == section.plainLength else {
      throw reader.fail("a section of \(section.storedLength) bytes that says it holds \(section.plainLength)")
    }
    return section
  }

  /// The sections a tensor must have, with the lengths they must have.
  private static func check(_ tensor: Tensor, _ count: Int, _ reader: ByteReader) throws {
    if tensor.encoding.isPacked {
      guard tensor.dtype == .f32 || tensor.dtype == .f16 || tensor.dtype == .bf16 else {
        throw reader.fail("packed tensor \(subject: tensor.name) of dtype \(tensor.dtype.rawValue)")
      }
      if let reason = tensor.encoding.codec.refusal(tensor.dtype, tensor.shape) {
        throw reader.fail("\(tensor: tensor.name) of shape \(tensor.shape) cannot be \(tensor.encoding.name): \(reason)")
      }
    }
    let expected = tensor.encoding.codec.sections(tensor.dtype, tensor.shape)
    let bits = tensor.storage.bitWidth
    guard tensor.storage == .u8 || bits % 8 == 0 && expected[0].length % (bits / 8) == 0 else {
      throw reader.fail(
        "\(tensor: tensor.name) whose codes are declared as \(tensor.storage.rawValue), which they do not fill")
    }
    var sections = tensor.sections[...]
    if let last = sections.last, last.kind == .stateText, tensor.encoding.bitsAndBytes?.tellsType == true, last.plainLength <= 1 << 20 {
      sections = sections.dropLast()
    }
    guard sections.count == expected.count,
      zip(sections, expected).allSatisfy({ $0.kind == $1.kind && $0.plainLength == $1.length })
    else { throw reader.fail("\(tensor: tensor.name) whose sections do not fit its shape and codec") }
  }
}

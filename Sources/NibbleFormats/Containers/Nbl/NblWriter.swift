import NibbleCore
import NibbleQuant

/// Writes a block file: room for header and table first, then files and tensors one after another, the table last.
final class NblWriter: CheckpointWriter {
  private let file: OutputFile
  private let cursor: SectionCursor
  private let compression: CompressionChoice
  private var table: NblTable
  private let tableLength: Int

  /// - Parameters:
  ///   - provenance: of the length it will have in the end
  init(
    _ staged: StagedOutput, _ targets: [TensorTarget], _ files: [Checkpoint.SmallFile],
    metadata: [(key: String, value: String)], provenance: JSON?, origin: ModelOrigin?, compression: CompressionChoice, expectedSize: Int
  ) throws {
    table = Self.emptyTable(targets, files, metadata: metadata, provenance: provenance, origin: origin)
    tableLength = Self.tableLength(table, targets)
    self.compression = compression
    file = try staged.file(expectedSize: expectedSize)
    cursor = SectionCursor(file, at: NblHeader.length + tableLength, alignment: NblHeader.alignment)
    table.files = []
  }

  /// The table as it will be, but for tensors, places and checksums.
  static func emptyTable(
    _ targets: [TensorTarget], _ files: [Checkpoint.SmallFile], metadata: [(key: String, value: String)],
    provenance: JSON?, origin: ModelOrigin?
  ) -> NblTable {
    var table = NblTable()
    for target in targets {
      for book in target.encoding.codec.codebooks where !table.codebooks.contains(book) {
        table.codebooks.append(book)
      }
    }
    if !metadata.isEmpty {
      table.texts.append(("metadata", JSON.object(metadata.map { ($0.key, .string($0.value)) }).text()))
    }
    if let provenance { table.texts.append(("provenance", provenance.text())) }
    if let origin { table.texts.append(("origin", origin.json.text())) }
    table.files = files.map { ($0.name, NblTable.Section(kind: .file, plainLength: $0.length)) }
    return table
  }

  /// The entry of a tensor as it will be, but for places, checksums and digest.
  static func entry(_ target: TensorTarget) -> NblTable.Tensor {
    NblTable.Tensor(
      name: target.name.text, dtype: target.dtype, isTransposed: target.isTransposed, shape: target.shape,
      encoding: target.encoding, storage: target.foreign.storage,
      sections: target.sections.map { NblTable.Section(kind: $0.kind, plainLength: $0.length) })
  }

  /// Bytes of the table with all entries, made one at a time: there may be hundreds of thousands.
  private static func tableLength(_ table: NblTable, _ targets: [TensorTarget]) -> Int {
    targets.reduce(table.bytes.count) { $0 + table.byteCount(of: entry($1)) }
  }

  /// Bytes of the file if nothing is compressed.
  ///
  /// - Parameter table: without its tensors
  static func size(of table: NblTable, _ targets: [TensorTarget]) -> Int {
    var size = NblHeader.length + tableLength(table, targets)
    func place(_ length: Int) { size = (aligned(size, to: NblHeader.alignment) ?? size) + length }
    for (_, section) in table.files { place(section.plainLength) }
    for target in targets { for section in target.sections { place(section.length) } }
    return size
  }

  let takesFilesFirst = true

  func carry(_ small: Checkpoint.SmallFile, _ stream: TensorStream) throws -> Bool {
    let writer = SectionWriter(
      .file, plainLength: small.length, to: cursor, checksummed: true,
      compression: compression.method(bitWidth: 8), level: compression.level, isFirst: true)
    try stream.write(try small.section, writer, small.name)
    table.files.append((small.name, entry(writer)))
    return true
  }

  func open(_ target: TensorTarget) throws -> [SectionWriter] {
    target.sections.enumerated().map { index, section in
      SectionWriter(
        section.kind, plainLength: section.length, to: cursor, checksummed: true,
        compression: compression.method(bitWidth: Self.bitWidth(section.kind, target)), level: compression.level,
        isFirst: index == 0)
    }
  }

  private static func bitWidth(_ kind: SectionKind, _ target: TensorTarget) -> Int {
    kind.bitWidth ?? target.dtype.bitWidth
  }

  private func entry(_ writer: SectionWriter) -> NblTable.Section {
    NblTable.Section(
      kind: writer.kind, compression: writer.storedCompression, offset: writer.start ?? 0,
      storedLength: writer.storedLength, plainLength: writer.plainLength, checksum: writer.checksum)
  }

  func close(_ target: TensorTarget, _ writers: [SectionWriter], _ outcome: TensorOutcome) throws {
    table.tensors.append(
      NblTable.Tensor(
        name: target.name.text, dtype: target.dtype, isTransposed: target.isTransposed, shape: target.shape,
        encoding: target.encoding, storage: target.foreign.storage, digest: outcome.digest,
        sections: writers.map(entry)))
  }

  func sync() throws { try file.sync() }

  var compressed: CompressionReport? {
    guard compression.isOn else { return nil }
    return (table.files.map(\.section) + table.tensors.flatMap(\.sections)).reduce(into: CompressionReport()) { $0.add($1) }
  }

  func finish(identity: Digest128, provenance: JSON?) throws -> Int {
    table.identity = identity
    table.texts = table.texts.map { $0.key == "provenance" ? ("provenance", provenance?.text() ?? "null") : $0 }
    let bytes = table.bytes
    guard bytes.count == tableLength else {
      throw NibbleError(.failed, "\(path: file.path): the table has \(bytes.count) bytes, room was left for \(tableLength)")
    }
    let header = NblHeader(
      fileLength: cursor.position, tableLength: bytes.count, tableChecksum: XXH3.digest64(of: bytes))
    try file.write(header.bytes + bytes, at: 0)
    try file.finish(length: cursor.position)
    return cursor.position
  }
}

/// Whether sections are compressed, and how hard.
public struct CompressionChoice: Sendable, Equatable {
  /// zstd's level, 1 to 22.
  public var level: Int
  /// Whether sections are compressed at all.
  public var isOn: Bool

  /// Sections as they are, to be used in place.
  public static let none = CompressionChoice(level: 0, isOn: false)
  /// zstd frames.
  public static func zstd(_ level: Int) -> CompressionChoice { CompressionChoice(level: level, isOn: true) }

  func method(bitWidth: Int) -> Compression {
    guard isOn else { return .none }
    return bitWidth == 16 ? .zstdPlanes2 : bitWidth == 32 ? .zstdPlanes4 : .zstd
  }
}

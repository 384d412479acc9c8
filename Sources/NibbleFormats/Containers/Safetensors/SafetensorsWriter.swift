import NibbleCore
import NibbleQuant

/// Writes safetensors, one file or shards in a folder, packed tensors as the layout spreads them.
final class SafetensorsWriter: CheckpointWriter {
  private let staged: StagedOutput
  private let layout: SafetensorsLayout
  private let isFolder: Bool
  /// Whether sections are checksummed, which nothing in the files asks for.
  private let isJournalled: Bool
  /// config.json as it will be; nil to carry the source's as it is.
  private let config: JSON?
  /// Completed with identity and provenance, and written beside the weights or, for a single file, into its
  /// metadata; nil to write none.
  private var record: SideRecord?

  private var shard = -1
  private var next = 0
  private var file: OutputFile?
  private var headerLength = 0
  private var cursors: [SectionCursor] = []
  /// Where stacks begin.
  private var stacks: [ByteName: Int] = [:]
  private var placed: [(name: ByteName, dtype: DType, shape: [Int], range: Range<Int>)] = []
  private var weightMap: [(key: String, value: JSON)] = []
  private var tensorBytes = 0
  private var totalBytes = 0

  /// - Parameter layout: of one shard for a single file, with the record in its metadata
  init(
    _ staged: StagedOutput, _ layout: SafetensorsLayout, isFolder: Bool, config: JSON?, record: SideRecord?, isJournalled: Bool
  ) throws {
    self.staged = staged
    self.layout = layout
    self.isFolder = isFolder
    self.isJournalled = isJournalled
    self.config = config
    self.record = record
    if layout.shards[0].targets.isEmpty { try begin(0) }
  }

  private func begin(_ index: Int) throws {
    shard = index
    next = 0
    (placed, stacks) = ([], [:])
    let plan = layout.shards[index]
    headerLength = layout.headerLength(plan)
    guard headerLength <= SafetensorsHeader.maximumLength else {
      throw NibbleError.usage(
        "\(path: staged.destination): a header of \(headerLength) bytes, more than the \(SafetensorsHeader.maximumLength) the format "
          + "allows; a folder with a smaller \(.maxShardSize) has several")
    }
    let file = try staged.file(
      isFolder ? layout.name(of: index) : nil, expectedSize: 8 + headerLength + plan.length)
    self.file = file
    var starts = [Int](repeating: 8 + headerLength, count: SafetensorsLayout.regions)
    for entry in plan.targets.flatMap(layout.entries) {
      for later in (SafetensorsLayout.region(entry) + 1)..<max(SafetensorsLayout.region(entry) + 1, SafetensorsLayout.regions) {
        starts[later] += entry.length
      }
    }
    cursors = starts.map { SectionCursor(file, at: $0, alignment: 1) }
  }

  func open(_ target: TensorTarget) throws -> [SectionWriter] {
    if shard < 0 || next == layout.shards[shard].targets.count {
      if shard >= 0 { try endShard() }
      try begin(shard + 1)
    }
    next += 1
    let entries = layout.entries(target)
    return target.sections.enumerated().map { index, section in
      let entry = entries.first { $0.holds(section.kind) }
      // The offset and a foreign state's text become part of the state.
      let cursor = entry.map(cursor)
      return SectionWriter(
        section.kind, plainLength: section.length, to: cursor, checksummed: isJournalled, isFirst: index == 0,
        order: entry?.part.order)
    }
  }

  /// Where an entry goes: behind others of its kind, or to its place in its stack, for which the first part sets the room aside.
  private func cursor(_ entry: SafetensorsLayout.Entry) -> SectionCursor {
    let all = cursors[SafetensorsLayout.region(entry)]
    guard let stack = entry.stack else { return all }
    let start = stacks[stack.name] ?? all.advance(stack.count * entry.length)
    stacks[stack.name] = start
    return SectionCursor(all.file, at: start + stack.index * entry.length, alignment: 1)
  }

  /// Files that are complete were synced when they were.
  func sync() throws { try file?.sync() }

  var compressed: CompressionReport? { nil }

  func close(_ target: TensorTarget, _ writers: [SectionWriter], _ outcome: TensorOutcome) throws {
    let dataStart = 8 + headerLength
    for entry in layout.entries(target) {
      guard let listed = entry.listed else { continue }
      var shape = listed.shape
      let start: Int
      var length = listed.length
      switch entry.part {
      case .section(let kind), .ordered(let kind, _):
        start = writers.first { $0.kind == kind }?.start ?? dataStart
      case .table(let codebook): start = try write(codebook.bytes, entry)
      case .constant(let bytes): start = try write(bytes, entry)
      case .state:
        let offset = writers.first { $0.kind == .nestedOffset }?.captured ?? []
        let text =
          writers.first { $0.kind == .stateText }?.captured ?? target.encoding.bitsAndBytes?.stateText(target, offset: offset)
          ?? []
        try target.checkState(text, offset: offset, file?.path ?? "")
        start = try write(text, entry)
        (length, shape) = (text.count, [text.count])
      }
      placed.append((listed.name, entry.dtype, shape, start - dataStart..<start - dataStart + length))
      weightMap.append((listed.name.text, JSON(layout.name(of: shard))))
      tensorBytes += length
    }
  }

  /// - Returns: where the bytes are
  private func write(_ bytes: [UInt8], _ entry: SafetensorsLayout.Entry) throws -> Int {
    let cursor = cursors[SafetensorsLayout.region(entry)]
    let start = cursor.advance(bytes.count)
    try cursor.file.write(bytes, at: start)
    return start
  }

  private func endShard() throws {
    guard let file else { return }
    var metadata = layout.metadata
    if !isFolder, let record, let at = metadata.firstIndex(where: { $0.key == SideRecord.metadataKey }) {
      metadata[at].value = record.json.text()
    }
    var text = SafetensorsLayout.headerText(placed, metadata)
    guard text.count <= headerLength else {
      throw NibbleError(.failed, "\(path: file.path): the header has \(text.count) bytes, room was left for \(headerLength)")
    }
    text += [UInt8](repeating: 0x20, count: headerLength - text.count)
    let length = (0..<8).map { UInt8(truncatingIfNeeded: headerLength >> (8 * $0)) }
    try file.write(length + text, at: 0)
    let end = cursors[SafetensorsLayout.regions - 1].position
    try file.finish(length: end)
    totalBytes += end
    self.file = nil
  }

  let takesFilesFirst = false

  func carry(_ small: Checkpoint.SmallFile, _ stream: TensorStream) throws -> Bool {
    guard isFolder else { return false }
    if small.name == "config.json", let config {
      try write(small.name, config.fileBytes)
      return true
    }
    let file = try staged.file(small.name, expectedSize: small.length)
    let cursor = SectionCursor(file, at: 0, alignment: 1)
    let writer = SectionWriter(.file, plainLength: small.length, to: cursor, checksummed: false)
    try stream.write(try small.section, writer, small.name)
    try file.finish(length: cursor.position)
    totalBytes += cursor.position
    return true
  }

  private func write(_ name: String, _ bytes: [UInt8]) throws {
    let file = try staged.file(name, expectedSize: bytes.count)
    try file.write(bytes, at: 0)
    try file.finish(length: bytes.count)
    totalBytes += bytes.count
  }

  func finish(identity: Digest128, provenance: JSON?) throws -> Int {
    record?.identity = identity
    record?.provenance = provenance
    try endShard()
    guard isFolder else { return totalBytes }
    if layout.shards.count > 1 {
      try write("model.safetensors.index.json", layout.index(weightMap, totalSize: tensorBytes))
    }
    if let record {
      try write(SideRecord.fileName, record.json.fileBytes)
    }
    return totalBytes
  }
}

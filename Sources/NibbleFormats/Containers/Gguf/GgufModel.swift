import NibbleCore
import NibbleQuant

/// GGUF, as llama.cpp reads whole models: one file, or several in a folder.
struct GgufModel: Container {
  let name = "gguf"
  let endings = [".gguf"]
  let holdsCodes = true
  let choosesTypes = true
  /// Made when a job is; every other question needs it.
  var plan: GgufPlan?

  func settle(_ job: inout StreamJob) throws {
    let plan = try GgufPlan(&job)
    job.output.format = OutputFormat(container: GgufModel(plan: plan))
  }

  func check(_ job: StreamJob) throws {
    guard plan != nil else { throw NibbleError(.failed, "\(path: job.output.path): a GGUF file was not planned") }
    if let changed = job.items.first(where: { $0.leftOut != nil && ($0.change != nil || $0.replacement != nil) }) {
      throw NibbleError.usage(
        "\(path: job.source.path): \(tensor: changed.source.name.text) is changed by the adapter and left out of the file: \(changed.leftOut ?? "")")
    }
    guard [.fail, .promote, .sixteenBits].contains(job.changing.whenLost) else {
      throw NibbleError.usage(
        "\(.whenLost, job.changing.whenLost.rawValue) does not go with GGUF files; \(.whenLost, "promote") writes what would be lost as q8_0, "
          + "\(.whenLost, "16bit") as f16 or bf16")
    }
  }

  func takes(_ encoding: WeightEncoding, beside others: [WeightEncoding]) -> Bool { encoding.isPlain || encoding.kind.isOfGguf }

  var promoted: WeightEncoding { GGMLType.q8_0.encoding }

  func makePlain(_ item: inout StreamJob.Item) {
    let type: GGMLType = item.source.dtype == .f16 ? .f16 : .bf16
    // Rows stay as they lie in the file.
    (item.target.encoding, item.target.dtype) = (type.encoding, type.elementType)
  }

  /// The tensors of a job in the order of the file.
  func layout(_ job: StreamJob) -> GgufLayout {
    var tensors: [GgufLayout.Tensor] = []
    for item in ordered(job.items) where item.leftOut == nil {
      let target = item.target, section = target.sections[0]
      var shape = target.shape
      if case .withoutFirst(let rows)? = plan?.forms[target.name], !shape.isEmpty { shape[0] -= rows }
      let length = order(target)?.storedLength(plain: section.length) ?? section.length, expert = plan?.experts[target.name]
      if let expert, expert > 0, !tensors.isEmpty {
        tensors[tensors.count - 1].add(length)
      } else {
        tensors.append(
          GgufLayout.Tensor(
            name: plan?.names[target.name] ?? target.name.text, shape: (expert == nil ? [] : [1]) + shape, type: target.ggmlType.number,
            length: length))
      }
    }
    return GgufLayout(
      plan?.encoded ?? GgufMetadata().encoded, (plan?.extra ?? []) + tensors,
      maximumShard: job.output.isSingleFile ? Int.max : job.output.maximumShard)
  }

  func ordered(_ items: [StreamJob.Item]) -> [StreamJob.Item] {
    guard let places = plan?.places, !places.isEmpty else { return items }
    return items.sorted { places[$0.source.name] ?? 0 < places[$1.source.name] ?? 0 }
  }

  func stack(_ tensor: ByteName) -> String? { plan?.experts[tensor] == nil ? nil : plan?.names[tensor] }

  /// How the bytes of a tensor lie in the file.
  func order(_ target: TensorTarget) -> SectionOrder? {
    guard let form = plan?.forms[target.name], let rows = target.shape.first, rows > 0 else { return nil }
    let rowBytes = target.sections[0].length / rows
    switch form {
    case .same, .transposed: return nil
    case .interleaved(let heads): return .interleaved(headRows: rows / heads, rowBytes: rowBytes)
    case .withoutFirst(let first): return .withoutFirst(first * rowBytes)
    case .plusOne: return .plusOne
    case .gathered(let groups, let parts): return LlamaCppForm.gathered(groups, parts, rows: rows, rowBytes: rowBytes)
    }
  }

  func size(_ job: StreamJob, _ provenance: JSON?) -> OutputSize { OutputSize(bytes: layout(job).size, isExact: job.changing.whenLost == .fail) }

  func openBytes(_ job: StreamJob) -> Int {
    let layout = layout(job)
    let turned = job.items.lazy.filter { $0.leftOut == nil }.map { item -> Int in
      guard let order = order(item.target), !order.isInPlace else { return 0 }
      return order.groupBytes ?? item.target.sections[0].length
    }.max() ?? 0
    // The header, and the tables it was made of.
    return OutputFile.windowSize + turned + (plan?.memory ?? 0) + layout.shards.reduce(0) { $0 + $1.headerLength } * 4
  }

  func writer(_ job: StreamJob, _ staged: StagedOutput, _ provenance: JSON?, size: Int) throws -> any CheckpointWriter {
    try GgufModelWriter(
      staged, layout(job), isFolder: !job.output.isSingleFile, isJournalled: job.resumes, order: order)
  }

  /// What decides the bytes of the file beside the tensors.
  func ingredients(_ job: StreamJob) -> String {
    layout(job).shards.flatMap(\.header).map { hexText(XXH3.digest64(of: $0)) }.joined(separator: " ")
  }
}

extension GgufLayout.Tensor {
  /// Takes one more expert.
  fileprivate mutating func add(_ bytes: Int) {
    length += bytes
    shape[0] += 1
    parts += 1
  }
}

extension TensorTarget {
  /// The type of ggml's that it is stored as.
  fileprivate var ggmlType: GGMLType { (encoding.codec as? GGMLBlocks)?.type ?? GGMLType(dtype) ?? .f32 }
}

/// Writes the tensors of a model into GGUF files.
final class GgufModelWriter: CheckpointWriter {
  private let staged: StagedOutput
  private let layout: GgufLayout
  private let isFolder: Bool
  /// Whether sections are checksummed, which nothing in the files asks for.
  private let isJournalled: Bool
  private let order: (TensorTarget) -> SectionOrder?
  private var shard = 0
  private var output: GgufOutput?
  private var totalBytes = 0

  init(
    _ staged: StagedOutput, _ layout: GgufLayout, isFolder: Bool, isJournalled: Bool, order: @escaping (TensorTarget) -> SectionOrder?
  ) throws {
    (self.staged, self.layout, self.isFolder, self.isJournalled, self.order) = (staged, layout, isFolder, isJournalled, order)
    try begin()
  }

  private func begin() throws {
    output = try GgufOutput(staged, name: isFolder ? layout.name(of: shard) : nil, layout.shards[shard])
  }

  /// Ends files that are full; a file may hold nothing but what is known beforehand.
  private func next() throws -> GgufOutput? {
    while let output, output.isFull, shard + 1 < layout.shards.count {
      totalBytes += try output.finish()
      shard += 1
      try begin()
    }
    return output
  }

  func open(_ target: TensorTarget) throws -> [SectionWriter] {
    guard let output = try next() else { return [] }
    return target.sections.enumerated().map { index, section in
      SectionWriter(
        section.kind, plainLength: section.length, to: output.cursor, checksummed: isJournalled, isFirst: index == 0, order: order(target))
    }
  }

  func close(_ target: TensorTarget, _ writers: [SectionWriter], _ outcome: TensorOutcome) throws { try output?.close() }

  func sync() throws { try output?.sync() }

  let takesFilesFirst = false
  var compressed: CompressionReport? { nil }

  /// Files that the metadata says the same as.
  func carry(_ file: Checkpoint.SmallFile, _ stream: TensorStream) throws -> Bool {
    let isTold = TokenizerText.names.contains(file.name) || file.name.hasPrefix("additional_chat_templates/") || file.name.hasSuffix("_Pooling/config.json")
    guard isTold else { return false }
    try stream.read(file.section, file.name, XXH3())
    return true
  }

  func finish(identity: Digest128, provenance: JSON?) throws -> Int {
    guard let output = try next() else { return totalBytes }
    totalBytes += try output.finish()
    self.output = nil
    return totalBytes
  }
}

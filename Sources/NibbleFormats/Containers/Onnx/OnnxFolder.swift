import NibbleCore
import NibbleQuant

/// A folder with the weights as ONNX Runtime's `MatMulBnb4` takes them, one node a packed matrix. It is written, not read.
struct OnnxFolder: Container {
  let name = "onnx"
  let endings: [String] = []
  let holdsCodes = true

  func check(_ job: StreamJob) throws {
    func refuse(_ target: TensorTarget, _ why: MessageText) -> NibbleError {
      .usage("\(path: job.source.path): \(subject: target.name.text) is \(why), which ONNX Runtime's MatMulBnb4 has no place for")
    }
    if job.resumes { throw NibbleError.usage("\(.resume) does not go with \(.format, name)") }
    for target in job.items.map(\.target) {
      guard takes(target.encoding, beside: []) else { throw refuse(target, "\(target.encoding.name)") }
      if let codec = target.encoding.codec as? BlockCodec {
        guard OnnxLayout.blockSizes.contains(codec.blockSize) else { throw refuse(target, "in blocks of \(codec.blockSize)") }
        guard codec.codebook == codec.code.codebook else { throw refuse(target, "\(codec.code.name) with values of its own") }
        guard target.shape.count == 2 else { throw refuse(target, "of \(target.shape.count) dimensions") }
      } else if OnnxLayout.type(of: target.dtype) == nil {
        throw refuse(target, "of \(target.dtype.rawValue)")
      }
    }
  }

  func takes(_ encoding: WeightEncoding, beside others: [WeightEncoding]) -> Bool { encoding.isPlain || encoding.codec is BlockCodec }

  func size(_ job: StreamJob, _ provenance: JSON?) -> OutputSize {
    let layout = OnnxLayout(job.items.map(\.target))
    let small = job.source.smallFiles.reduce(0) { $0 + $1.length }
    return OutputSize(
      bytes: layout.dataLength + layout.model(OnnxWriter.metadata(identity: Digest128(high: 0, low: 0), provenance)).count + small,
      isExact: job.card == nil)
  }

  func openBytes(_ job: StreamJob) -> Int {
    // Scales of one tensor, as they came and as float32.
    OutputFile.windowSize + (job.items.map { $0.target.count }.max() ?? 0) / 8
  }

  func writer(_ job: StreamJob, _ staged: StagedOutput, _ provenance: JSON?, size: Int) throws -> any CheckpointWriter {
    try OnnxWriter(job.items.map(\.target), staged)
  }
}

/// Writes `model.onnx.data` as tensors come, `model.onnx` at the end.
final class OnnxWriter: CheckpointWriter {
  private let layout: OnnxLayout
  private let staged: StagedOutput
  private let data: OutputFile
  private var next = 0
  private var smallBytes = 0

  init(_ targets: [TensorTarget], _ staged: StagedOutput) throws {
    (layout, self.staged) = (OnnxLayout(targets), staged)
    data = try staged.file(OnnxLayout.dataName, expectedSize: layout.dataLength)
  }

  static func metadata(identity: Digest128, _ provenance: JSON?) -> [(key: String, value: String)] {
    [("nibble.identity", identity.description)] + (provenance.map { [("nibble.provenance", $0.text())] } ?? [])
  }

  func open(_ target: TensorTarget) throws -> [SectionWriter] {
    let parts = layout.parts[next]
    next += 1
    return target.sections.enumerated().map { index, section in
      // Scales are put together when all of them are there.
      let cursor = index == 0 ? SectionCursor(data, at: parts[0].start, alignment: 1) : nil
      return SectionWriter(section.kind, plainLength: section.length, to: cursor, checksummed: false, isFirst: index == 0)
    }
  }

  func close(_ target: TensorTarget, _ writers: [SectionWriter], _ outcome: TensorOutcome) throws {
    guard let codec = target.encoding.codec as? BlockCodec else { return }
    let scales = codec.restoredScales(writers.dropFirst().filter { $0.kind != .stateText }.map(\.captured), count: target.count)
    try scales.withUnsafeBytes { try data.write($0, at: layout.parts[next - 1][1].start) }
  }

  func sync() throws { try data.sync() }
  let takesFilesFirst = false
  var compressed: CompressionReport? { nil }

  func carry(_ small: Checkpoint.SmallFile, _ stream: TensorStream) throws -> Bool {
    let file = try staged.file(small.name, expectedSize: small.length)
    let cursor = SectionCursor(file, at: 0, alignment: 1)
    try stream.write(
      try small.section, SectionWriter(.file, plainLength: small.length, to: cursor, checksummed: false), small.name)
    try file.finish(length: cursor.position)
    smallBytes += cursor.position
    return true
  }

  func finish(identity: Digest128, provenance: JSON?) throws -> Int {
    try data.finish(length: layout.dataLength)
    let model = layout.model(Self.metadata(identity: identity, provenance))
    let file = try staged.file(OnnxLayout.modelName, expectedSize: model.count)
    try file.write(model, at: 0)
    try file.finish(length: model.count)
    return layout.dataLength + model.count + smallBytes
  }
}

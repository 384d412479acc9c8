import NibbleCore
import NibbleQuant

/// What containers of safetensors share: one file, or shards in a folder with the model's small files.
protocol SafetensorsContainer: Container {
  /// The tensors that hold `target`, in the order in which they are written.
  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry]
  /// What is written beside the tensors, completed with identity and provenance in the end; nil for nothing.
  func record(_ job: StreamJob, _ provenance: JSON?) -> SideRecord?
  /// config.json made to fit what is written; nil to carry it as it is.
  func config(_ job: StreamJob) -> JSON?
}

extension SafetensorsContainer {
  var endings: [String] { [".safetensors"] }

  func arranged(_ job: StreamJob) -> StreamJob { job.withExpertsInOrder() }

  private func layout(_ job: StreamJob, _ record: SideRecord?) -> SafetensorsLayout {
    var metadata = job.source.metadata
    if let record, job.output.isSingleFile { metadata.append((SideRecord.metadataKey, record.json.text())) }
    let stacks = ExpertStacks(job.items.map(\.target), job.source.family)
    return SafetensorsLayout(
      job.items.map(\.target), metadata: metadata, maximumShard: job.output.isSingleFile ? Int.max : job.output.maximumShard
    ) { stacks.marked(entries(of: $0), $0.name) }
  }

  func size(_ job: StreamJob, _ provenance: JSON?) -> OutputSize {
    let record = record(job, provenance)
    let layout = layout(job, record)
    let (bytes, isExact) = layout.size
    var size = OutputSize(bytes: bytes, isExact: isExact)
    if job.output.isSingleFile { return size }
    let config = config(job)
    size.bytes += job.source.smallFiles.reduce(0) { total, file in
      total + (file.name == "config.json" && config != nil ? config?.fileBytes.count ?? 0 : file.length)
    }
    size.bytes += (record?.json.fileBytes.count ?? 0) + layout.indexLength
    // A model card tells of what is not known yet.
    return job.card == nil ? size : OutputSize(bytes: size.bytes + 4096, isExact: false)
  }

  func openBytes(_ job: StreamJob) -> Int { layout(job, nil).openBytes }

  func writer(_ job: StreamJob, _ staged: StagedOutput, _ provenance: JSON?, size: Int) throws -> any CheckpointWriter {
    let record = record(job, provenance)
    return try SafetensorsWriter(
      staged, layout(job, record), isFolder: !job.output.isSingleFile, config: config(job), record: record,
      isJournalled: job.resumes)
  }
}

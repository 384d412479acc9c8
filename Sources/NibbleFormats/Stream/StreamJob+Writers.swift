import NibbleCore

extension StreamJob {
  /// What takes the tensors, in the container that was asked for.
  func makeWriter(_ staged: StagedOutput, _ provenance: JSON?, _ size: Int) throws -> any CheckpointWriter {
    let targets = items.map(\.target)
    if output.format == .nbl {
      return try NblWriter(
        staged, targets, source.smallFiles, metadata: source.metadata, provenance: provenance,
        compression: output.compression, expectedSize: size)
    }
    let record = sideRecord(provenance)
    return try SafetensorsWriter(
      staged, layout(record), isFolder: !output.isSingleFile, config: writtenConfig(targets), record: record,
      isJournalled: resumes)
  }

  func sideRecord(_ provenance: JSON?) -> SideRecord? {
    guard output.format == .bnb else { return nil }
    var record = SideRecord()
    record.identity = Digest128(high: 0, low: 0)
    record.provenance = provenance
    record.metadata = source.metadata
    record.rowTypes = items.filter { $0.target.encoding.bitsAndBytes?.hasStateText == false }.map { ($0.target.name.text, $0.target.dtype) }
    record.transposed = items.filter { $0.target.isTransposed }.map(\.target.name.text)
    if !output.isSingleFile, let config = source.smallFiles.first(where: { $0.name == "config.json" }) {
      record.config = try? String(
        decoding: SectionReader(config.section, config.name).readWhole(limit: Checkpoint.jsonLimit), as: UTF8.self)
    }
    return record
  }

  func layout(_ record: SideRecord?) -> SafetensorsLayout {
    var metadata = source.metadata
    if let record, output.isSingleFile { metadata.append((SideRecord.metadataKey, record.json.text())) }
    return SafetensorsLayout(
      items.map(\.target), metadata: metadata, maximumShard: output.isSingleFile ? Int.max : output.maximumShard)
  }

  /// config.json with what it says of types and quantization made to fit what is written; nil to carry it as it is.
  func writtenConfig(_ targets: [TensorTarget]) -> JSON? {
    guard var config = source.config else { return nil }
    if output.format == .safetensors {
      if let name = dtypeName {
        for key in ["dtype", "torch_dtype"] where config[key] != nil { config = config.setting(key, to: JSON(name)) }
      }
      config = config.removing("quantization_config")
      return config == source.config ? nil : config
    }
    if config["quantization_config"] != nil, items.allSatisfy({ $0.source.encoding == $0.target.encoding }) { return nil }
    guard let quantization = QuantizationConfig.json(targets, family: source.family) else { return nil }
    return config.setting("quantization_config", to: quantization)
  }
}

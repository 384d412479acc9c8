import NibbleCore

/// `nibble.json`: what other engines' layouts cannot say and a block file can. With it, a block file converted to one of them and back
/// is the same file again.
struct SideRecord {
  static let fileName = "nibble.json"
  /// Where the record stands in a single `.safetensors` file.
  static let metadataKey = "nibble"

  var identity: Digest128?
  var provenance: JSON?
  var origin: ModelOrigin?
  /// Names of packed tensors stored as the transpose of the model's own.
  var transposed: [String] = []
  /// Types that packed weights had, where nothing else beside the codes tells.
  var rowTypes: [(name: String, dtype: DType)] = []
  /// `__metadata__` as it was before safetensors' own `format` was set in it; nil for a record that does not say.
  var metadata: [(key: String, value: String)]?
  /// config.json as it was before `quantization_config` was set in it.
  var config: String?

  init() {}

  init(text: [UInt8], place: String) throws {
    let json: JSON
    do { json = try JSON.parse(text) } catch {
      throw NibbleError.badInput("\(path: place): \(error.reason) at byte \(error.offset)")
    }
    guard json["nibble"]?.int == 1 else {
      throw NibbleError.badInput("\(path: place): no record of this version of nibble ('nibble' is not 1)")
    }
    identity = json["identity"]?.string.flatMap(Digest128.init(hex:))
    provenance = json["provenance"].flatMap { $0 == .null ? nil : $0 }
    origin = json["origin"].flatMap(ModelOrigin.init(json:))
    transposed = (json["transposed"]?.array ?? []).compactMap(\.string)
    rowTypes = (json["row_types"]?.members ?? []).compactMap { name, value in
      value.string.flatMap(DType.init).flatMap { $0.isFloat ? (name, $0) : nil }
    }
    config = json["config"]?.string
    metadata = json["metadata"]?.members?.map { ($0.key, $0.value.string ?? "") }
  }

  var json: JSON {
    var json: JSON = [
      "nibble": 1, "identity": JSON(identity?.description), "provenance": provenance ?? .null,
      "transposed": JSON(transposed), "config": JSON(config),
      "metadata": metadata.map { .object($0.map { ($0.key, .string($0.value)) }) } ?? .null,
    ]
    if let origin { json = json.setting("origin", to: origin.json) }
    if rowTypes.isEmpty { return json }
    return json.setting("row_types", to: .object(rowTypes.map { ($0.name, JSON($0.dtype.rawValue)) }))
  }
}

extension Checkpoint {
  /// Takes over what a record beside the tensors says.
  mutating func apply(_ record: SideRecord, replacingConfig: Bool) throws {
    provenance = record.provenance
    claimedIdentity = record.identity
    if !isSnapshot { origin = record.origin }
    if let known = record.metadata { metadata = known }
    let names = Set(record.transposed.map { ByteName($0) })
    let types = Dictionary(record.rowTypes.map { (ByteName($0.name), $0.dtype) }) { $1 }
    for index in tensors.indices where tensors[index].isPacked {
      let name = tensors[index].name
      if names.contains(name) { tensors[index].isTransposed = true }
      if tensors[index].encoding.bitsAndBytes?.tellsType != true, let type = types[name] { tensors[index].dtype = type }
    }
    guard replacingConfig, let text = record.config else { return }
    configIsStored = false
    let section = StoredSection(.file, bytes: Array(text.utf8))
    smallFiles = smallFiles.map { $0.name == "config.json" ? SmallFile(name: $0.name, section: section) : $0 }
    do { config = try JSON.parse(text) } catch {
      throw NibbleError.badInput("\(path: "\(path)/\(SideRecord.fileName)"): config: \(error.reason)")
    }
  }
}

extension SafetensorsContainer {
  func record(_ job: StreamJob, _ provenance: JSON?) -> SideRecord? { sideRecord(job, provenance) }

  /// All that can be said of a job.
  func sideRecord(_ job: StreamJob, _ provenance: JSON?) -> SideRecord {
    var record = SideRecord()
    record.identity = Digest128(high: 0, low: 0)
    record.provenance = provenance
    record.origin = job.origin
    record.metadata = job.source.metadata
    let packed = job.items.map(\.target).filter(\.encoding.isPacked)
    record.rowTypes = packed.filter { $0.encoding.bitsAndBytes?.tellsType != true }.map { ($0.name.text, $0.dtype) }
    record.transposed = job.items.map(\.target).filter(\.isTransposed).map(\.name.text)
    if !job.output.isSingleFile, let config = job.source.smallFiles.first(where: { $0.name == "config.json" }) {
      record.config = try? String(
        decoding: SectionReader(try config.section, config.name).readWhole(limit: Checkpoint.jsonLimit), as: UTF8.self)
    }
    return record
  }
}

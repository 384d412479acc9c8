import NibbleCore
import NibbleQuant

/// A checkpoint, whatever holds it: its tensors in name order, its configuration, its small files.
public struct Checkpoint: Sendable {
  /// What kind of file or folder holds a checkpoint.
  public enum Container: String, Sendable {
    /// A single `.safetensors` file without a configuration.
    case safetensors
    /// A Hugging Face folder.
    case folder
    /// A block file.
    case nbl
    /// A GGUF file, or the parts of one.
    case gguf
  }

  /// As it was given.
  public let path: String
  /// What holds it.
  public internal(set) var container: Container
  /// In ascending order of names.
  public internal(set) var tensors: [StoredTensor] = []
  /// Those among them that were put there by others and do not count for the identity.
  var added: Set<ByteName> = []
  /// Layers of what is stored, one after another in what this is; empty where these are the same.
  package internal(set) var layerReplication: [Range<Int>] = []
  /// The files tensors are read from.
  package internal(set) var files: [InputFile] = []
  /// Configuration, tokenizer, templates, in name order.
  public package(set) var smallFiles: [SmallFile] = []
  /// Small files that the checkpoint has in a form nibble cannot read, and why.
  var unreadable: [(name: String, reason: NibbleError)] = []
  /// Files of the folder that are not part of the checkpoint as nibble carries it.
  public internal(set) var leftOutFiles: [String] = []
  /// config.json, as it was before nibble put a quantization_config into it.
  public internal(set) var config: JSON?
  /// What safetensors headers say beside the tensors, as one JSON object of texts.
  public internal(set) var metadata: [(key: String, value: String)] = []
  /// How the content came to be, where the container says.
  public internal(set) var provenance: JSON?
  /// The published model it holds, where that is known.
  public internal(set) var origin: ModelOrigin?
  /// The container of the layout of its packed tensors, where a configuration names one.
  var layoutFormat: OutputFormat?
  /// Whether that container stores the same tensors in another way.
  var isStoredAnew = false
  /// Whether its config.json is the one that lies there, and not the one that was there before nibble wrote another.
  var configIsStored = true
  /// Whether it was opened in Hugging Face's cache.
  var isSnapshot = false
  /// The identity the container claims.
  public internal(set) var claimedIdentity: Digest128?
  /// Things worth telling that are no errors.
  public package(set) var warnings: [Warning] = []


  init(path: String, container: Container) {
    self.path = path
    self.container = container
  }

  /// The packed ones among the tensors.
  public var packed: [StoredTensor] { tensors.filter(\.isPacked) }
  /// `model_type` of the configuration.
  public var modelType: String? { config?["model_type"]?.string }
  /// The architecture, if it is one nibble knows; of a model that takes pictures as well, that of its text model.
  public var family: ModelFamily? {
    guard let modelType else { return nil }
    guard let part = TextPart.of(modelType) else { return ModelFamily.named(modelType) }
    let own = part.modelType(config)
    return ModelFamily.named(own).map { $0.within(part, runs: $0.runs(own) && $0.prefix(own) == TextPart.prefix, modelType) }
  }
  /// Bytes of the files that hold the tensors.
  public var storedBytes: Int { files.reduce(0) { $0 + $1.size } }

  /// The tensor called `name`.
  public func tensor(_ name: ByteName) -> StoredTensor? {
    var low = 0
    var high = tensors.count
    while low < high {
      let middle = (low + high) / 2
      if tensors[middle].name < name { low = middle + 1 } else { high = middle }
    }
    return low < tensors.count && tensors[low].name == name ? tensors[low] : nil
  }

  /// Throws if any file the checkpoint was opened from has changed since.
  public func checkUnchanged() throws {
    for file in files { try file.checkUnchanged() }
    for small in smallFiles { try small.inputFile?.checkUnchanged() }
  }
}

extension Checkpoint {
  /// Opens what `path` names: a Hugging Face folder, a `.safetensors`, `.nbl` or `.gguf` file, a folder with a bitsandbytes
  /// checkpoint, or `ORG/NAME[@REVISION]` in the local Hugging Face cache.
  ///
  /// Headers, tables and indices are read and checked whole; tensor bytes are not touched.
  ///
  /// - Throws: `.badInput`, `.integrity`
  public static func open(_ path: String) throws -> Checkpoint {
    guard !path.isEmpty else { throw NibbleError.usage("the name of a checkpoint is empty") }
    switch PathKind(path) {
    case .folder: return try openFolder(path, as: path)
    case .file: return try openFile(path)
    case .other: throw NibbleError.badInput("\(path: path): neither a regular file nor a folder")
    case .nothing:
      if let snapshot = try HubCache.snapshot(path) { return try openFolder(snapshot, as: path) }
      throw NibbleError.badInput(
        "\(path: path): no such file or folder\(HubCache.isRepository(path) ? ", nor in the Hugging Face cache" : "")")
    }
  }

  /// Opens what a job has just written, which may be a folder without a configuration.
  package static func openWritten(_ path: String) throws -> Checkpoint {
    PathKind(path) == .folder ? try openFolder(path, as: path, needsConfig: false) : try openFile(path)
  }

  private static func openFile(_ path: String) throws -> Checkpoint {
    let file = try InputFile(path)
    let start = try file.bytes(at: 0, count: min(8, file.size))
    let name = path.lowercased()
    guard let kind = FileKind.all.first(where: { $0.isOne(start, name) }) else {
      throw NibbleError.badInput("\(path: path): no file of a kind that holds checkpoints")
    }
    return try kind.open(file)
  }

  static func openSafetensors(_ file: InputFile) throws -> Checkpoint {
    let header = try SafetensorsHeader(of: file)
    var checkpoint = Checkpoint(path: file.path, container: .safetensors)
    checkpoint.files = [file]
    checkpoint.metadata = header.metadata.filter { $0.key != SideRecord.metadataKey }
    try PackedLayouts.gather(header.entries.map { StoredTensor($0, in: file) }, nil, into: &checkpoint, dtype: .f16)
    if let text = header.metadata.first(where: { $0.key == SideRecord.metadataKey })?.value {
      try checkpoint.apply(SideRecord(text: Array(text.utf8), place: file.path), replacingConfig: false)
    }
    try checkpoint.unstackExperts()
    checkpoint.sortTensors()
    return checkpoint
  }

  mutating func sortTensors() { tensors.sort { $0.name < $1.name } }
}

extension StoredTensor {
  init(_ entry: SafetensorsHeader.Entry, in file: InputFile) {
    self.init(
      entry.name, entry.dtype, entry.shape,
      sections: [StoredSection(.data, in: file, at: entry.range.lowerBound, count: entry.range.count)])
  }
}

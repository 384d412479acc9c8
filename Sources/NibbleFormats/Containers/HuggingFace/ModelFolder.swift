import NibbleCore

extension Checkpoint {
  private static let weightsName = "model.safetensors"
  private static let indexName = "model.safetensors.index.json"

  /// Opens a Hugging Face folder: one file or shards, with its configuration.
  ///
  /// - Parameters:
  ///   - path: how the user named it
  ///   - needsConfig: refuses folders without one
  static func openFolder(_ folder: String, as path: String, needsConfig: Bool = true) throws -> Checkpoint {
    let names = try namesInFolder(folder)
    if !names.contains(weightsName), !names.contains(indexName), case let models = GgufParts.models(names), !models.isEmpty {
      guard models.count == 1 else {
        throw NibbleError.badInput("\(path: path): \(models.count) models in GGUF; give one of them itself, such as \(quoted(folder + "/" + models[0]))")
      }
      return try open(folder + "/" + models[0])
    }
    var checkpoint = Checkpoint(path: path, container: .folder)
    if !names.contains("config.json"), !needsConfig {
      // The weights alone.
    } else if !names.contains("config.json") {
      let files = names.filter { $0.hasSuffix(".safetensors") }
      let hint = files.isEmpty ? "" : "; a single file may be given itself: \(folder)/\(files[0])"
      throw NibbleError.badInput("\(path: path): no config.json, so this is no model folder\(hint)")
    }
    if names.contains("config.json") {
      checkpoint.config = try readJSON(folder + "/config.json")
      try checkpoint.checkConfig()
    }
    let snapshot = ModelOrigin(snapshot: folder)
    checkpoint.isSnapshot = snapshot != nil
    checkpoint.origin = snapshot ?? ModelOrigin(config: checkpoint.config)
    let shards: [(name: String, header: SafetensorsHeader, file: InputFile)]
    if names.contains(weightsName) {
      let file = try InputFile(folder + "/" + weightsName)
      shards = [(weightsName, try SafetensorsHeader(of: file), file)]
      if names.contains(indexName) { try checkIndex(folder, against: shards[0].header, &checkpoint.warnings) }
    } else if names.contains(indexName) {
      shards = try openShards(folder, &checkpoint.warnings)
    } else {
      throw noWeights(path, names)
    }
    checkpoint.files = shards.map(\.file)
    try checkForStrayWeights(folder, names, read: Set(shards.map(\.name)), &checkpoint.warnings)
    checkpoint.metadata = mergedMetadata(shards.map { ($0.name, $0.header.metadata) }, &checkpoint.warnings)
    let tensors = shards.flatMap { shard in shard.header.entries.map { StoredTensor($0, in: shard.file) } }
    let settings =
      try QuantizationSettings(config: checkpoint.config, place: folder + "/config.json") ?? QuantizationSettings(folder: folder, names)
    try PackedLayouts.gather(tensors, settings, into: &checkpoint, dtype: checkpoint.computeType ?? .f16)
    try checkpoint.unstackExperts()
    try checkpoint.addSmallFiles(of: folder, names, weights: Set(shards.map(\.name)))
    if names.contains(SideRecord.fileName) {
      let record = folder + "/" + SideRecord.fileName
      try checkpoint.apply(SideRecord(text: readSmall(record), place: record), replacingConfig: true)
    } else {
      checkpoint.markTransposed()
    }
    checkpoint.sortTensors()
    return checkpoint
  }

  /// `model.safetensors` is what is read where an index lies beside it; it must hold all the index lists.
  private static func checkIndex(_ folder: String, against header: SafetensorsHeader, _ warnings: inout [Warning]) throws {
    let index = try ShardIndex(folder + "/" + indexName)
    let held = Set(header.entries.map(\.name))
    if let missing = index.weightMap.keys.filter({ !held.contains($0) }).min() {
      throw NibbleError.integrity(
        "\(path: index.path): lists \(tensor: missing.text), which \(weightsName) beside it does not hold; remove one of the two"
      )
    }
    warnings.append(.init(.unused, "\(path: index.path) was not used: \(weightsName) holds all it lists"))
  }

  /// Warns of weights in the folder that no index lists; refuses those that look like a part of the model.
  private static func checkForStrayWeights(
    _ folder: String, _ names: [String], read: Set<String>, _ warnings: inout [Warning]
  ) throws {
    let shard = try Pattern(#"^model-\d+-of-\d+\.safetensors$"#)
    for name in names where name.hasSuffix(".safetensors") && !read.contains(name) {
      if !read.contains(weightsName), try shard.isFound(in: name) {
        // An index lists tensors: it has no way to list a shard without any.
        guard try SafetensorsHeader(of: InputFile(folder + "/" + name)).entries.isEmpty else {
          throw NibbleError.integrity("\(path: "\(folder)/\(name)"): a shard that \(indexName) does not list")
        }
        warnings.append(.init(.metadata, "\(path: "\(folder)/\(name)"): a shard without tensors"))
        continue
      }
      warnings.append(.init(.unused, "\(path: "\(folder)/\(name)") is not part of the model and was not read"))
    }
  }

  /// What nibble reads of a configuration must be of the type it has everywhere.
  func checkConfig() throws {
    func fail(_ key: String, _ type: String) -> NibbleError {
      .badInput("\(path: path): config.json: \(subject: key) is not \(type)")
    }
    guard let config else { return }
    if let type = config["model_type"], type != .null, type.string == nil { throw fail("model_type", "a text") }
    if let tied = config["tie_word_embeddings"], tied != .null, tied.bool == nil {
      throw fail("tie_word_embeddings", "true or false")
    }
    guard let quantization = config["quantization_config"], quantization != .null else { return }
    guard quantization.members != nil else { throw fail("quantization_config", "an object") }
    if let method = quantization["quant_method"], method.string == nil { throw fail("quant_method", "a text") }
  }

  private static func noWeights(_ path: String, _ names: [String]) -> NibbleError {
    for name in names {
      for ending in [".bin", ".pt", ".pth", ".ckpt"] where name.hasSuffix(ending) {
        return .badInput("\(path: "\(path)/\(name)"): \(ending) files are not read; convert the model to safetensors")
      }
    }
    let other = names.first { $0.hasSuffix(".safetensors") }
    let hint = other.map { "; it holds \(quoted($0)), which may be given itself" } ?? ""
    return .badInput("\(path: path): neither \(weightsName) nor \(indexName) in it\(hint)")
  }

  /// Bytes of the longest configuration or index that is read; an index of 200000 tensors is shorter.
  static let jsonLimit = 24 << 20

  static func readSmall(_ path: String, limit: Int = jsonLimit) throws -> [UInt8] {
    let file = try InputFile(path)
    guard file.size <= limit else { throw NibbleError.badInput("\(path: path): \(file.size) bytes, more than \(limit)") }
    return try file.bytes(at: 0, count: file.size)
  }

  static func readJSON(_ path: String) throws -> JSON {
    let bytes = try readSmall(path, limit: jsonLimit)
    do {
      let json = try JSON.parse(bytes)
      guard json.members != nil else { throw NibbleError.badInput("\(path: path): not a JSON object") }
      return json
    } catch let error as JSONError {
      throw NibbleError.badInput("\(path: path): \(error.reason) at byte \(error.offset)")
    }
  }

  /// Opens the shards an index names and checks both against each other.
  private static func openShards(
    _ folder: String, _ warnings: inout [Warning]
  ) throws -> [(name: String, header: SafetensorsHeader, file: InputFile)] {
    let index = try ShardIndex(folder + "/" + indexName)
    var shards: [(name: String, header: SafetensorsHeader, file: InputFile)] = []
    var owner: [ByteName: String] = [:]
    var total = 0
    for name in index.shardNames {
      let path = folder + "/" + name
      guard PathKind(path) != .nothing else {
        throw NibbleError.badInput("\(path: index.path): shard \(subject: name) is missing")
      }
      let file = try InputFile(path)
      let header = try SafetensorsHeader(of: file)
      for entry in header.entries {
        if let other = owner.updateValue(name, forKey: entry.name) {
          throw NibbleError.badInput(
            "\(path: path): \(tensor: entry.name.text) is in shard \(quoted(other)) too")
        }
        guard index.weightMap[entry.name] == name else {
          let said = index.weightMap[entry.name].map { "places it in \(quoted($0))" } ?? "does not list it"
          throw NibbleError.integrity(
            "\(path: path): holds \(tensor: entry.name.text), but \(indexName) \(said)")
        }
        total += entry.range.count
      }
      shards.append((name, header, file))
    }
    if let (name, shard) = index.weightMap.filter({ owner[$0.key] == nil }).min(by: { $0.key < $1.key }) {
      throw NibbleError.integrity(
        "\(path: index.path): lists \(tensor: name.text) in \(quoted(shard)), which does not hold it")
    }
    if let claimed = index.totalSize, claimed != total {
      warnings.append(
        .init(.metadata, "\(path: index.path): \(key: "total_size") is \(claimed), the tensors take \(total) bytes"))
    }
    return shards
  }

  private static func mergedMetadata(
    _ all: [(shard: String, metadata: [(key: String, value: String)])], _ warnings: inout [Warning]
  ) -> [(key: String, value: String)] {
    var merged: [(key: String, value: String)] = []
    for (shard, metadata) in all {
      for (key, value) in metadata {
        if let known = merged.first(where: { ByteName($0.key) == ByteName(key) }) {
          if ByteName(known.value) != ByteName(value) {
            warnings.append(
              .init(.metadata, "metadata \(subject: key) of \(quoted(shard)) differs from an earlier shard's and was dropped"))
          }
        } else {
          merged.append((key, value))
        }
      }
    }
    return merged.sorted { ByteName($0.key) < ByteName($1.key) }
  }

  /// Finds what travels with the model, and what does not.
  private mutating func addSmallFiles(of folder: String, _ names: [String], weights: Set<String>) throws {
    let modules = try Self.moduleFolders(of: folder)
    for name in names where !weights.contains(name) {
      if ModelFileNames.isCarried(name) {
        let file = try InputFile(folder + "/" + name)
        smallFiles.append(SmallFile(name: name, section: StoredSection(.file, in: file, at: 0, count: file.size)))
      } else if name != Self.indexName, name != SideRecord.fileName, !name.hasPrefix("."),
        try !addFolder(name, of: folder, isNamed: modules.contains(name))
      {
        leftOutFiles.append(PathKind(folder + "/" + name) == .folder ? name + "/" : name)
      }
    }
    smallFiles.sort { ByteName($0.name) < ByteName($1.name) }
  }

  /// Folders that `modules.json` of sentence-transformers names.
  private static func moduleFolders(of folder: String) throws -> Set<String> {
    guard PathKind(folder + "/modules.json") == .file, let list = try? JSON.parse(readSmall(folder + "/modules.json")).array else { return [] }
    return Set(list.compactMap { $0["path"]?.string })
  }

  /// Takes the files of a folder that travels with the weights.
  ///
  /// - Returns: false for a folder that does not, and for a link to one
  private mutating func addFolder(_ name: String, of folder: String, isNamed: Bool) throws -> Bool {
    let path = folder + "/" + name
    guard isNamed && ModelFileNames.isModule(name) || name == ModelFileNames.templates, isOwnFolder(path) else { return false }
    for inner in try namesInFolder(path) where !inner.hasPrefix(".") {
      let (file, place) = (name + "/" + inner, path + "/" + inner)
      guard ModelFileNames.isPlain(file), PathKind(place) == .file, Self.isInside(place, folder) else {
        leftOutFiles.append(file)
        continue
      }
      let input = try InputFile(place)
      smallFiles.append(SmallFile(name: file, section: StoredSection(.file, in: input, at: 0, count: input.size)))
    }
    return true
  }

  /// Whether a file lies in the model's folder or, of a snapshot in Hugging Face's cache, among the files of the same model.
  private static func isInside(_ file: String, _ folder: String) -> Bool {
    let (file, home) = (realPath(file), realPath(folder))
    let isSnapshot = ModelOrigin(snapshot: home) != nil
    return file.hasPrefix(home + "/") || isSnapshot && file.hasPrefix(realPath(home + "/../..") + "/blobs/")
  }

  /// The type that the configuration says the model computes in.
  var computeType: DType? {
    let name = (config?["dtype"] ?? config?["torch_dtype"])?.string
    return QuantState.dtypes.first { $0.name == name }?.dtype
  }

  /// Packed Conv1D weights are stored [out, in]: the transpose of the model's own.
  mutating func markTransposed() {
    guard let family else { return }
    for index in tensors.indices where tensors[index].isPacked {
      tensors[index].isTransposed = family.isConv1D(tensors[index].name.text)
    }
  }
}

/// `model.safetensors.index.json`.
struct ShardIndex {
  let path: String
  private(set) var weightMap: [ByteName: String] = [:]
  private(set) var shardNames: [String] = []
  private(set) var totalSize: Int?

  init(_ path: String) throws {
    self.path = path
    let json = try Checkpoint.readJSON(path)
    guard let map = json["weight_map"]?.members else {
      throw NibbleError.badInput("\(path: path): no weight_map in it")
    }
    totalSize = json["metadata"]?["total_size"]?.int
    var shards = Set<ByteName>()
    for (name, value) in map {
      guard let shard = value.string else {
        throw NibbleError.badInput("\(path: path): the shard of \(tensor: name) is not a text")
      }
      // A shard lies in this folder: anything that could lead elsewhere is refused unopened.
      guard !shard.isEmpty, !shard.utf8.contains(UInt8(ascii: "/")), !shard.utf8.contains(0), shard != "..", shard != "."
      else {
        throw NibbleError.badInput("\(path: path): shard \(subject: shard) is not a plain file name")
      }
      guard shard.hasSuffix(".safetensors") else {
        throw NibbleError.badInput("\(path: path): shard \(subject: shard) is no .safetensors file")
      }
      weightMap[ByteName(name)] = shard
      shards.insert(ByteName(shard))
    }
    guard !shards.isEmpty else { throw NibbleError.badInput("\(path: path): its weight_map is empty") }
    shardNames = shards.sorted().map(\.text)
  }
}

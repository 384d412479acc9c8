import NibbleCore

/// What the head of a folder's `README.md`, a model card, says of the model: licence, languages, where it comes from. The keys are those that
/// gguf-py's `Metadata` reads.
struct ModelCard {
  /// What stands behind each key.
  private var fields: [String: YAML] = [:]

  /// A card that says nothing.
  init() {}

  /// - Parameter text: of the whole file; the head stands between two lines `---`
  /// - Throws: `.usage` naming `place` and the line for a head that is no YAML
  init(_ text: String, place: String) throws {
    let text = text.hasPrefix("\u{FEFF}") ? String(text.dropFirst()) : text
    let lines = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
    guard lines.first == "---" else { return }
    let head = lines.dropFirst().prefix { $0 != "---" }.map { $0.replacing("\t", with: "  ") }
    // An empty line instead of the first keeps the numbers of lines.
    guard case .mapping(let entries)? = try YAML.parse("\n" + head.joined(separator: "\n") + "\n", place: place) else { return }
    for entry in entries { fields[entry.key] = entry.value }
  }

  /// The card of a folder; an empty one where there is none.
  ///
  /// - Throws: for a card that cannot be read
  init(of folder: String) throws {
    let path = folder + "/README.md"
    guard PathKind(folder) == .folder, PathKind(path) == .file else {
      self.init()
      return
    }
    try self.init(String(decoding: Checkpoint.readSmall(path, limit: 1 << 20), as: UTF8.self), place: path)
  }

  /// The first of these keys that has a text.
  func text(_ keys: String...) -> String? { keys.lazy.compactMap { Self.text(fields[$0]) }.first }

  /// The texts of these keys, one after another: each key has one, or a list.
  func texts(_ keys: String...) -> [String] {
    keys.flatMap { key in
      if case .sequence(let list)? = fields[key] { return list.compactMap { Self.text($0) } }
      return Self.text(fields[key]).map { [$0] } ?? []
    }
  }

  /// The things that the first of these keys lists: by their names, or by fields of their own.
  private func parents(_ keys: [String]) -> [YAML] {
    guard let value = keys.lazy.compactMap({ fields[$0] }).first else { return [] }
    if case .sequence(let list) = value { return list }
    return Self.text(value) == nil ? [] : [value]
  }

  private static func text(_ value: YAML?) -> String? {
    guard case .scalar(let text)? = value, !["", "~", "null", "Null", "NULL"].contains(text) else { return nil }
    return text
  }

  // MARK: - Keys of a file

  func writeLicence(_ out: inout GgufMetadata) {
    let licences = texts("license")
    if !licences.isEmpty { out["general.license"] = .text(licences.joined(separator: ",")) }
    for (key, name) in [("license.name", "license_name"), ("license.link", "license_link")] {
      if let text = text(name) { out["general." + key] = .text(text) }
    }
    for name in ["url", "doi", "uuid", "repo_url"] {
      if let text = text(name, "model_" + name) { out["general.source." + name] = .text(text) }
    }
  }

  /// What a model was made from, and what it is for.
  ///
  /// - Parameter weights: numbers of all tensors; they tell sizes in names from lengths of a context
  func writeOrigin(weights: Int, _ out: inout GgufMetadata) {
    for (kind, keys) in [
      ("base_model", ["base_model", "base_models", "base_model_sources"]), ("dataset", ["datasets", "dataset", "dataset_sources"]),
    ] {
      let parents = parents(keys)
      guard !parents.isEmpty else { continue }
      out["general.\(kind).count"] = .u32(UInt32(clamping: parents.count))
      for (index, parent) in parents.enumerated() {
        for (field, text) in Self.fields(of: parent, weights: weights) { out["general.\(kind).\(index).\(field)"] = .text(text) }
      }
    }
    let tags = texts("tags", "pipeline_tag"), languages = texts("languages", "language")
    if !tags.isEmpty { out["general.tags"] = .texts(tags) }
    if !languages.isEmpty { out["general.languages"] = .texts(languages) }
  }

  /// What is said of a model or a set of data: its fields, or what its name or address says.
  private static func fields(of parent: YAML, weights: Int) -> [(String, String)] {
    if case .mapping(let entries) = parent {
      return ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"].compactMap { field in
        text(entries.first { $0.key == field }?.value).map { (field, $0) }
      }
    }
    guard let id = text(parent) else { return [] }
    let isAddress = ["http://", "https://", "ssh://"].contains { id.hasPrefix($0) }
    let home = ["https://huggingface.co/", "http://huggingface.co/"].first { id.hasPrefix($0) }
    let own = home.map { String(id.dropFirst($0.count)) }.flatMap { name in
      name.split(separator: "/", omittingEmptySubsequences: false).count == 2 && !name.hasPrefix("/") && !name.hasSuffix("/") ? name : nil
    }
    var fields: [(String, String)] = []
    if let name = isAddress ? own : id {
      let parts = NameParts(name, weights: weights)
      if let name = parts.name { fields.append(("name", NameParts.title(name))) }
      if let version = parts.version { fields.append(("version", version)) }
      if let organization = parts.organization { fields.append(("organization", NameParts.title(organization))) }
      if !isAddress, let organization = parts.organization, let name = parts.name {
        fields.append(("repo_url", "https://huggingface.co/\(organization)/\(name)"))
      }
    }
    if isAddress { fields.append(("repo_url", id)) }
    return fields
  }
}

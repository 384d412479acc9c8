import NibbleCore

/// Merges, tokens with a meaning, chat templates and normalizer as GGUF has them: what gguf-py's `SpecialVocab` finds in a model's files.
struct SpecialTokenKeys {
  private var ids: [(role: String, id: Int)] = []
  private var adds: [(role: String, adds: Bool)] = []
  private var template: JSON?
  private var lowercases: Bool?
  private var stripsAccents: Bool?
  private var roles = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"]
  private let limit: Int?
  private let text: TokenizerText
  private let withMerges: Bool

  /// - Parameters:
  ///   - limit: ids from this on are left out
  ///   - config: config.json
  ///   - roles: others than the usual ones
  init(_ text: TokenizerText, _ config: JSON?, merges: Bool = false, limit: Int? = nil, roles: [String]? = nil) throws {
    (self.text, self.limit, withMerges) = (text, limit, merges)
    if let roles { self.roles = roles }
    try readTokenizer()
    for role in self.roles { try set(role, config?["\(role)_token_id"]) }
  }

  /// Keys for roles and for what is put around texts.
  private static let idKeys = [
    "bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "sep": "seperator_token_id", "pad": "padding_token_id",
    "mask": "mask_token_id", "eot": "eot_token_id", "eom": "eom_token_id",
  ]

  func write(_ metadata: inout GgufMetadata, templates: Bool = true) throws {
    if withMerges { metadata["tokenizer.ggml.merges"] = .texts(text.merges) }
    for (role, id) in ids {
      guard let key = Self.idKeys[role], let id = UInt32(exactly: id) else { continue }
      metadata["tokenizer.ggml." + key] = .u32(id)
    }
    for (role, adds) in adds where ["bos", "eos", "sep"].contains(role) { metadata["tokenizer.ggml.add_\(role)_token"] = .bool(adds) }
    if templates, let template { try write(template, &metadata) }
    if let lowercases { metadata["tokenizer.ggml.normalizer.lowercase"] = .bool(lowercases) }
    if let stripsAccents { metadata["tokenizer.ggml.normalizer.strip_accents"] = .bool(stripsAccents) }
  }

  private func write(_ template: JSON, _ metadata: inout GgufMetadata) throws {
    if let text = template.string { return metadata["tokenizer.chat_template"] = .text(text) }
    var names: [String] = []
    var first: String?
    for one in template.array ?? [] {
      guard let text = one["template"]?.string else { continue }
      let name = String(String.UnicodeScalarView((one["name"]?.string ?? "").unicodeScalars.map { $0.isASCII && $0.properties.isAlphabetic || ("0"..."9").contains($0) ? $0 : "_" }))
      if name == "default" {
        first = text
      } else if !name.isEmpty {
        names.append(name)
        metadata["tokenizer.chat_template.\(name)"] = .text(text)
      }
    }
    metadata["tokenizer.chat_templates"] = .texts(names)
    if let first { metadata["tokenizer.chat_template"] = .text(first) }
  }

  /// Gives a role a token, unless it has one.
  mutating func set(_ role: String, id: Int) { if !ids.contains(where: { $0.role == role }) { ids.append((role, id)) } }

  private mutating func set(_ role: String, _ value: JSON?) throws {
    guard let id = value?.int else { return }
    guard id >= 0 else { throw NibbleError.badInput("\(path: text.place): \(role)_token_id is \(id)") }
    if let limit, id >= limit { return }
    set(role, id: id)
  }

  private mutating func add(_ role: String, _ value: Bool, insisting: Bool = true) {
    if let at = adds.firstIndex(where: { $0.role == role }) {
      if insisting { adds[at].adds = value }
    } else {
      adds.append((role, value))
    }
  }

  private mutating func readTokenizer() throws {
    var settings = text.configuration
    func setting(_ key: String) -> JSON? { settings?[key].flatMap { $0 == .null || $0 == "" ? nil : $0 } }
    if text.hasTokenizerJSON {
      if let normalizer = text.rest["normalizer"] { read(normalizer: normalizer) }
      // Without a beginning or an end of its own a model has its first or last mark for it.
      if setting("bos_token") == nil, let mark = setting("cls_token") { settings = settings?.setting("bos_token", to: mark) }
      if setting("eos_token") == nil, let mark = setting("sep_token") { settings = settings?.setting("eos_token", to: mark) }
      if let processor = text.rest["post_processor"], processor != .null { read(processor, &settings) }
    }
    guard let settings else { return }
    template = try settings["chat_template"] ?? otherTemplate()
    if let one = template, one.string == nil, one.array == nil { template = nil }
    let added = text.rest["added_tokens"]?.array ?? []
    for role in roles {
      if let value = settings["add_\(role)_token"]?.bool { add(role, value, insisting: false) }
      guard let entry = settings["\(role)_token"], let content = entry.string ?? entry["content"]?.string else { continue }
      try set(role, added.first { $0["content"] == JSON(content) }?["id"])
    }
  }

  private func otherTemplate() throws -> JSON? {
    if let first = try text.text("chat_template.jinja") {
      let more = try text.moreTemplates()
      if more.isEmpty { return JSON(first) }
      return .array(([("default", first)] + more.map { ($0.name, $0.text) }).map { ["name": JSON($0.0), "template": JSON($0.1)] })
    }
    return try text.json("chat_template.json")?["chat_template"]
  }

  private mutating func read(normalizer: JSON) {
    switch normalizer["type"]?.string {
    case "Lowercase": lowercases = true
    case "StripAccents": stripsAccents = true
    case "BertNormalizer":
      if let value = normalizer["lowercase"] { lowercases = value.bool }
      if let value = normalizer["strip_accents"] { stripsAccents = value.bool }
    case "Sequence": for one in normalizer["normalizers"]?.array ?? [] { read(normalizer: one) }
    default: break
    }
  }

  /// What stands around a text: a beginning, an end, separators of a pair. Simple templates only, as gguf-py reads them.
  private mutating func read(_ processor: JSON, _ settings: inout JSON?) {
    func content(_ value: JSON?) -> String? { value?.string ?? value?["content"]?.string }
    func set(_ key: String, _ value: String?) { if let value { settings = settings?.setting(key, to: JSON(value)) } }
    func mark(_ key: String) -> String? { content(settings?[key]).flatMap { $0.isEmpty ? nil : $0 } }
    var (bos, cls, eos, sep) = (mark("bos_token"), mark("cls_token"), mark("eos_token"), mark("sep_token"))
    for one in processor["processors"]?.array ?? [processor] {
      switch one["type"]?.string {
      case "ByteLevel":
        add("bos", false, insisting: false)
        add("eos", false, insisting: false)
      case "RobertaProcessing":
        for role in ["bos", "eos", "sep"] { add(role, true) }
        if cls == nil {
          cls = one["cls"]?.array?.first?.string ?? bos
          set("cls_token", cls)
        }
        if sep == nil {
          sep = one["sep"]?.array?.first?.string ?? eos
          set("sep_token", sep)
        }
      case "TemplateProcessing":
        let single = one["single"]?.array ?? []
        var first: String?, last: String?
        if single.count > 1 {
          first = single.first?["SpecialToken"]?["id"]?.string
          if let first {
            if settings == nil {
              bos = first
            } else if first != bos, first != cls {
              if bos == nil {
                bos = first
                set("bos_token", first)
              }
              if cls == nil {
                cls = first
                set("cls_token", first)
              }
            }
            add("bos", first == bos || first == cls)
          }
          last = single.last?["SpecialToken"]?["id"]?.string
          if let last {
            if settings == nil {
              eos = last
            } else if last != eos {
              let role = ["eot", "eom"].first { !roles.contains($0) }
              if let role {
                roles.append(role)
                set("\(role)_token", eos)
              }
              eos = last
              set("eos_token", last)
            }
            add("eos", last == eos)
          }
        }
        if let between = Self.between(one["pair"]?.array ?? [], first, last) {
          let marks = between.map { $0["SpecialToken"]?["id"]?.string }
          func isEnd(_ mark: String?) -> Bool { mark != nil && (mark == sep || mark == eos) }
          let adds = isEnd(marks.first ?? nil) && last == nil || marks.count == 2 && isEnd(marks[1])
          add("sep", adds)
          if adds, sep == nil { set("sep_token", eos) }
        }
      default: break
      }
    }
  }

  /// What stands between the two texts of a pair; nil where it is no pair of A and B with something between them.
  private static func between(_ pair: [JSON], _ first: String?, _ last: String?) -> [JSON]? {
    var rest = pair[...]
    if let first, rest.first?["SpecialToken"]?["id"]?.string == first { rest.removeFirst() }
    if let last, rest.last?["SpecialToken"]?["id"]?.string == last { rest.removeLast() }
    guard rest.first?["Sequence"]?["id"]?.string == "A", rest.last?["Sequence"]?["id"]?.string == "B" else { return nil }
    let middle = Array(rest.dropFirst().dropLast())
    return middle.isEmpty ? nil : middle
  }
}

import NibbleCore

/// The chat templates of a model: one, or several by name.
public struct ChatTemplates: Sendable {
  /// Names and templates; the first name of a single one is `default`.
  private let templates: [(name: String, template: Template)]
  /// Those of them that write the parts of a message and nothing of a plain text.
  private let ofParts: Set<String>
  /// The texts of special tokens under their names, as transformers gives them to a template.
  public let specialTokens: [(key: String, value: JSON)]
  private let place: String

  /// Files that templates and the special tokens they use are read from.
  public static let fileNames = ["chat_template.jinja", "chat_template.json", "tokenizer_config.json", "special_tokens_map.json"]
  /// A folder of a model folder with templates by name.
  public static let folderName = "additional_chat_templates"

  /// The templates among a model's small files.
  ///
  /// As in transformers, `chat_template.jinja` and the folder of additional templates come before `chat_template` of `tokenizer_config.json`;
  /// `chat_template.json` of older processors comes last.
  ///
  /// - Parameters:
  ///   - files: contents by file name; additional templates as `additional_chat_templates/NAME.jinja`
  ///   - place: the model, for errors
  /// - Returns: nil for a model without a template
  /// - Throws: `.badInput` for files that cannot be read and templates that cannot be parsed
  public init?(files: [String: [UInt8]], place: String) throws {
    self.place = place
    let config = try Self.json("tokenizer_config.json", files, place) ?? .object([])
    var sources: [(name: String, file: String, text: String)] = []
    for (file, bytes) in files.sorted(by: { ByteName($0.key) < ByteName($1.key) }) where file.hasSuffix(".jinja") {
      let isAdditional = file.hasPrefix(Self.folderName + "/")
      guard isAdditional || file == "chat_template.jinja" else { continue }
      guard let text = String(validating: bytes, as: UTF8.self) else { throw NibbleError.badInput("\(path: "\(place)/\(file)"): not UTF-8") }
      sources.append((isAdditional ? String(file.dropFirst(Self.folderName.count + 1).dropLast(6)) : "default", file, text))
    }
    if sources.isEmpty { sources = try Self.sources(config["chat_template"], "tokenizer_config.json", place) }
    if sources.isEmpty { sources = try Self.sources(Self.json("chat_template.json", files, place)?["chat_template"], "chat_template.json", place) }
    guard !sources.isEmpty else { return nil }
    let special = Self.specialTokens(config, try Self.json("special_tokens_map.json", files, place) ?? .null)
    let templates = try sources.map { name, file, text in
      (name, try Template(text, name: sources.count == 1 || file.hasSuffix(".jinja") ? "\(place)/\(file)" : "\(place)/\(file) (\(name))"))
    }
    (self.templates, specialTokens, ofParts) = (templates, special, Self.ofParts(templates, special))
  }

  /// One template from a file of its own, with a model's special tokens.
  public init(_ template: Template, specialTokens: [(key: String, value: JSON)]) {
    (templates, self.specialTokens, place) = ([("default", template)], specialTokens, template.name)
    ofParts = Self.ofParts(templates, specialTokens)
  }

  /// The special tokens of a model, whether or not it has a template.
  public static func specialTokens(files: [String: [UInt8]], place: String) throws -> [(key: String, value: JSON)] {
    specialTokens(
      try json("tokenizer_config.json", files, place) ?? .object([]), try json("special_tokens_map.json", files, place) ?? .null)
  }

  private static func json(_ name: String, _ files: [String: [UInt8]], _ place: String) throws -> JSON? {
    guard let bytes = files[name] else { return nil }
    do throws(JSONError) { return try JSON.parse(bytes) } catch {
      throw NibbleError.badInput("\(path: "\(place)/\(name)"): \(error.reason) at byte \(error.offset)")
    }
  }

  private static func sources(_ value: JSON?, _ file: String, _ place: String) throws -> [(name: String, file: String, text: String)] {
    switch value {
    case nil, .some(.null): return []
    case .string(let text)?: return [("default", file, text)]
    case .array(let list)?:
      return try list.map { entry in
        guard let name = entry["name"]?.string, let text = entry["template"]?.string else {
          throw NibbleError.badInput("\(path: "\(place)/\(file)"): chat_template has an entry without a 'name' and a 'template'")
        }
        return (name, file, text)
      }
    case .object(let members)?:
      return try members.map { name, text in
        guard let text = text.string else { throw NibbleError.badInput("\(path: "\(place)/\(file)"): chat_template \(quoted(name)) is no text") }
        return (name, file, text)
      }
    default: throw NibbleError.badInput("\(path: "\(place)/\(file)"): chat_template is neither a text nor a list of named ones")
    }
  }

  private static let roles = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]

  private static func specialTokens(_ config: JSON, _ map: JSON) -> [(key: String, value: JSON)] {
    roles.compactMap { role in
      for source in [config, map] {
        if let value = source[role], let text = value.string ?? value["content"]?.string { return (role, .string(text)) }
      }
      return nil
    }
  }

  /// Names of the templates.
  public var names: [String] { templates.map(\.name) }

  /// The template for a conversation: `tool_use` where there are tools and a template of that name, else `default`.
  ///
  /// - Throws: `.usage` where several templates leave a choice, `.badInput` for one that is not there
  public func template(for conversation: Conversation, named name: String? = nil) throws -> Template {
    func find(_ name: String) -> Template? { templates.first { ByteName($0.name) == ByteName(name) }?.template }
    if let name {
      guard let found = find(name) else { throw NibbleError.usage("\(path: place) has no template \(quoted(name)); it has \(names.joined(separator: ", "))") }
      return found
    }
    if conversation.tools != nil, let found = find("tool_use") { return found }
    if let found = find("default") { return found }
    throw NibbleError.usage("\(path: place) has the templates \(names.joined(separator: ", ")), and none is the default")
  }

  /// Writes a conversation out.
  ///
  /// - Parameters:
  ///   - addsPrompt: begins the answer that the model is to give
  ///   - now: seconds since 1970 for `strftime_now`; nil for the clock
  /// - Throws: `.badInput` with the template's line; what the template raises
  public func render(_ conversation: Conversation, addsPrompt: Bool, now: Int? = nil) throws -> Template.Rendering {
    var context = specialTokens
    func set(_ key: String, _ value: JSON) {
      context.removeAll { $0.key == key }
      context.append((key, value))
    }
    for (key, value) in conversation.variables { set(key, value) }
    let template = try template(for: conversation)
    let messages = conversation.preparedMessages
    set("messages", .array(ofParts.contains(template.name) ? messages.map(Self.inParts) : messages))
    set("tools", conversation.tools ?? .null)
    set("documents", conversation.documents ?? .null)
    set("add_generation_prompt", .bool(addsPrompt))
    return try template.render(context, now: now)
  }

  /// Templates, by the names they have in errors, that write the parts of a message and nothing of a plain text, as those of models that take
  /// pictures as well may do: a text would be lost. transformers' tokenizers give a template what they are given; servers give these parts.
  private static func ofParts(_ templates: [(name: String, template: Template)], _ special: [(key: String, value: JSON)]) -> Set<String> {
    let word = "Zyzzyva", message = Conversation.message("user", word)
    func isWritten(_ message: JSON, _ template: Template) -> Bool {
      let context = special + [("messages", .array([message])), ("tools", .null), ("documents", .null), ("add_generation_prompt", .bool(false))]
      return (try? template.render(context, now: 0).text.contains(word)) ?? false
    }
    let found = templates.map(\.template).filter { $0.mentionsTypes && !isWritten(message, $0) && isWritten(inParts(message), $0) }
    return Set(found.map(\.name))
  }

  /// A message whose text is its only part.
  private static func inParts(_ message: JSON) -> JSON {
    guard let text = message["content"]?.string else { return message }
    return message.setting("content", to: .array([["type": "text", "text": JSON(text)]]))
  }
}

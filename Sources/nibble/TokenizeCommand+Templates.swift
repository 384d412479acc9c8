import NibbleCore
import NibbleFormats
import NibbleTemplates
import NibbleTokenizers

extension TokenizeCommand {
  /// Renders a template with the variables of a JSON object.
  func render(_ path: String) throws {
    let source = try SmallText.read(path)
    let template = try Template(source, name: path, whitespace: Template.Whitespace(trimsBlocks: trimBlocks, stripsBlocks: lstripBlocks))
    var variables: [(key: String, value: JSON)] = []
    if let context {
      guard let members = try SmallText.json(context).members else { throw NibbleError.badInput("\(context): not a JSON object") }
      variables = members
    }
    let rendering = try template.render(variables)
    if common.json {
      let spans = rendering.generated.map { JSON([$0.lowerBound, $0.upperBound]) }
      try StandardOutput.print(["text": JSON(rendering.text), "generated": .array(spans)])
    } else {
      try StandardOutput.write(rendering.text)
    }
  }

  /// Writes a conversation out by the model's template.
  func conversation(_ path: String) throws {
    guard let place = tokenizer else { throw NibbleError.usage("--messages needs --tokenizer, whose template it is for") }
    let chat = try Chat(at: place)
    var conversation = try Conversation(SmallText.json(path), place: path)
    let flag = conversation.variables.first { $0.key == "add_generation_prompt" }?.value.bool
    conversation.variables.removeAll { $0.key == "add_generation_prompt" }
    let rendering = try chat.templates.render(conversation, addsPrompt: addGenerationPrompt || flag == true)
    guard common.json else { return try StandardOutput.print(rendering.text) }
    let tokenizer = try open(place)
    let encoding = try tokenizer.encode(rendering.text, addSpecialTokens: false)
    try StandardOutput.print([
      "text": JSON(rendering.text), "ids": JSON(encoding.ids), "tokens": JSON(encoding.ids.map { tokenizer.token($0) ?? "" }),
      "count": JSON(encoding.ids.count),
    ])
  }
}

/// A model's chat templates.
struct Chat {
  let templates: ChatTemplates

  /// Of a model folder, a block file, or a model of the local cache.
  ///
  /// - Throws: `.badInput` for a model without one
  init(at path: String) throws {
    guard let found = try Self.templates(at: path) else {
      throw NibbleError.badInput("\(path): no chat template: neither chat_template.jinja nor chat_template in tokenizer_config.json")
    }
    templates = found
  }

  /// The templates at a path, if there are any.
  static func templates(at path: String) throws -> ChatTemplates? { try ChatTemplates(files: files(at: path), place: path) }

  /// The small files that say how conversations are written out.
  static func files(at path: String) throws -> [String: [UInt8]] {
    switch PathKind(path) {
    case .folder: return try files(ofFolder: path)
    case .file where Checkpoint.isOneFile(path): return try Checkpoint.open(path).contents(ofSmallFiles: ChatTemplates.fileNames + [ChatTemplates.folderName + "/"])
    case .file: return try files(ofFolder: path.lastIndex(of: "/").map { String(path[..<$0]) } ?? ".")
    default:
      guard let snapshot = try HubCache.snapshot(path) else { throw NibbleError.badInput("\(path): no such file or folder") }
      return try files(ofFolder: snapshot)
    }
  }

  private static func files(ofFolder folder: String) throws -> [String: [UInt8]] {
    var files: [String: [UInt8]] = [:]
    for name in ChatTemplates.fileNames where PathKind(folder + "/" + name) == .file {
      files[name] = try SmallText.bytes(folder + "/" + name)
    }
    let more = folder + "/" + ChatTemplates.folderName
    if PathKind(more) == .folder {
      for name in try namesInFolder(more) where name.hasSuffix(".jinja") {
        files[ChatTemplates.folderName + "/" + name] = try SmallText.bytes(more + "/" + name)
      }
    }
    return files
  }
}

/// Small files that are read whole.
enum SmallText {
  private static let largest = 1 << 28

  static func bytes(_ path: String) throws -> [UInt8] {
    let file = try InputFile(path)
    guard file.size <= largest else { throw NibbleError.badInput("\(path): \(file.size) bytes; at most \(largest) are read") }
    return try file.bytes(at: 0, count: file.size)
  }

  static func read(_ path: String) throws -> String {
    guard let text = String(validating: try bytes(path), as: UTF8.self) else { throw NibbleError.badInput("\(path): not UTF-8") }
    return text
  }

  static func json(_ path: String) throws -> JSON {
    do { return try JSON.parse(bytes(path)) } catch let error as JSONError {
      throw NibbleError.badInput("\(path): \(error.reason) at byte \(error.offset)")
    }
  }
}

import ArgumentParser
import NibbleCore
import NibbleFormats
import NibbleTokenizers

struct TokenizeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tokenize",
    abstract: "Turn text into token ids, or token ids into text.",
    discussion: """
      PATH is a model folder, a block file or GGUF file with a tokenizer inside, or one file: tokenizer.json, tokenizer.model \
      (SentencePiece or tiktoken ranks), vocab.json beside merges.txt, vocab.txt.

      Rows of --file are {"text": …}, {"text": …, "pair": …} or, with --decode, {"ids": […]}. For each, one line is \
      printed: {"text"} with --decode, else {"ids", "ids_with_special", "ids_special_as_text", "type_ids", "decoded"}. "ids" has no \
      added special tokens, "type_ids" belongs to "ids_with_special", "decoded" is the text of "ids".

      --messages renders a conversation with the model's chat template: a JSON list of messages, or an object with "messages", \
      "tools", "documents" and other variables of the template. --render needs no model.
      """)

  @Option(help: ArgumentHelp("Where the tokenizer is.", valueName: "path"))
  var tokenizer: String?

  @Argument(help: "The text; with --decode, ids separated by spaces or commas.")
  var text: [String] = []

  @Option(help: ArgumentHelp("A second text, encoded as a pair with the first.", valueName: "text"))
  var pair: String?

  @Option(help: ArgumentHelp("Read JSON Lines instead of TEXT.", valueName: "rows.jsonl"))
  var file: String?

  @Option(help: ArgumentHelp("A conversation to render with the model's chat template.", valueName: "conversation.json"))
  var messages: String?

  @Flag(help: "With --messages: begin the assistant's answer.")
  var addGenerationPrompt = false

  @Option(help: ArgumentHelp("A chat template to render by itself.", valueName: "template.jinja"))
  var render: String?

  @Option(help: ArgumentHelp("With --render: the template's variables, a JSON object.", valueName: "context.json"))
  var context: String?

  @Flag(help: "With --render: drop the newline after a block, as Jinja's trim_blocks.")
  var trimBlocks = false

  @Flag(help: "With --render: drop white space before a block on its line, as Jinja's lstrip_blocks.")
  var lstripBlocks = false

  @Flag(help: "Turn ids into text.")
  var decode = false

  @Flag(name: .customLong("no-special"), help: "Add no special tokens, and drop them from decoded text.")
  var noSpecial = false

  @Flag(help: "Treat special tokens spelled out in the text as plain text.")
  var specialAsText = false

  @OptionGroup var common: CommonOptions

  func validate() throws {
    if render != nil || messages != nil {
      if !text.isEmpty || file != nil || pair != nil || decode || (render != nil && messages != nil) {
        throw ValidationError("one of TEXT, --file, --messages and --render")
      }
      if messages != nil, tokenizer == nil { throw ValidationError("--messages needs --tokenizer") }
      if messages != nil, context != nil { throw ValidationError("--context goes with --render") }
      return
    }
    guard let tokenizer else { throw ValidationError("--tokenizer is missing") }
    if tokenizer.isEmpty { throw ValidationError("--tokenizer is empty") }
    if context != nil { throw ValidationError("--context goes with --render") }
    if file != nil, !text.isEmpty || pair != nil { throw ValidationError("TEXT or --file, not both") }
    if file == nil, text.isEmpty { throw ValidationError("TEXT is missing, or --file") }
    if !decode, text.count > 1 { throw ValidationError("TEXT is \(text.count) arguments; put it in quotes") }
    if decode, pair != nil { throw ValidationError("--pair is for texts, not with --decode") }
  }

  func run() throws {
    if let render { return try self.render(render) }
    if let messages { return try conversation(messages) }
    let tokenizer = try open(tokenizer ?? "")
    if let file {
      try rows(of: file, tokenizer)
    } else if decode {
      try printDecoded(tokenizer)
    } else {
      try printEncoded(tokenizer)
    }
  }

  func open(_ path: String) throws -> Tokenizer {
    guard Checkpoint.isOneFile(path) else { return try Tokenizer.open(path) }
    let checkpoint = try Checkpoint.open(path)
    return try Tokenizer(files: checkpoint.contents(ofSmallFiles: Tokenizer.fileNames), place: path)
  }

  private func printEncoded(_ tokenizer: Tokenizer) throws {
    let encoding = try tokenizer.encode(text[0], pair: pair, addSpecialTokens: !noSpecial, specialAsText: specialAsText)
    if common.json {
      try StandardOutput.print([
        "ids": JSON(encoding.ids), "tokens": JSON(encoding.ids.map { tokenizer.token($0) ?? "" }),
        "type_ids": JSON(encoding.typeIDs), "count": JSON(encoding.ids.count),
        "vocabulary_size": JSON(tokenizer.vocabularySize), "source": JSON(tokenizer.source.rawValue),
      ])
    } else {
      try StandardOutput.print(encoding.ids.map { String($0) }.joined(separator: " "))
    }
  }

  private func printDecoded(_ tokenizer: Tokenizer) throws {
    let words = text.flatMap { $0.split { $0 == " " || $0 == "," || $0 == "\n" } }
    let ids = try words.map { word in
      guard let id = Int(word) else { throw NibbleError.usage("\(subject: String(word)) is no token id") }
      return id
    }
    let decoded = try tokenizer.decode(ids, skipSpecialTokens: noSpecial)
    if common.json {
      try StandardOutput.print(["text": JSON(decoded), "tokens": JSON(ids.map { tokenizer.token($0) ?? "" })])
    } else {
      try StandardOutput.print(decoded)
    }
  }

  private func rows(of path: String, _ tokenizer: Tokenizer) throws {
    try JSONLines.forEach(path) { row, place in
      let output: JSON
      if decode {
        guard let list = row["ids"]?.array else { throw NibbleError.badInput("\(path: place): no list \"ids\"") }
        let ids = try list.map { id in
          guard let id = id.int else {
            throw NibbleError.badInput("\(path: place): \"ids\" holds something that is no whole number")
          }
          return id
        }
        output = ["text": JSON(try at(place) { try tokenizer.decode(ids, skipSpecialTokens: noSpecial) })]
      } else {
        guard let text = row["text"]?.string else { throw NibbleError.badInput("\(path: place): no text \"text\"") }
        output = try at(place) { try encoded(text, row["pair"]?.string, tokenizer) }
      }
      // ASCII only: some readers take U+2028 and U+0085 for ends of lines.
      try StandardOutput.print(output.text(.python))
    }
  }

  private func encoded(_ text: String, _ pair: String?, _ tokenizer: Tokenizer) throws -> JSON {
    func ids(_ text: String) throws -> [Int] {
      try tokenizer.encode(text, addSpecialTokens: false, specialAsText: specialAsText).ids
    }
    let first = try ids(text)
    let second = try pair.map(ids)
    let bare = first + (second ?? [])
    let decoded = JSON(try tokenizer.decode(bare, skipSpecialTokens: noSpecial))
    if noSpecial { return ["ids": JSON(bare), "decoded": decoded] }
    let whole = tokenizer.addingSpecialTokens(to: first, pair: second)
    let hasSpecial = bare.contains(where: tokenizer.isSpecial)
    let plain =
      try hasSpecial ? tokenizer.encode(text, pair: pair, addSpecialTokens: false, specialAsText: true).ids : bare
    return [
      "ids": JSON(bare), "ids_with_special": JSON(whole.ids), "ids_special_as_text": JSON(plain),
      "type_ids": JSON(whole.typeIDs), "decoded": decoded,
    ]
  }

  /// Says in which row an error is.
  private func at<R>(_ place: String, _ body: () throws -> R) throws -> R {
    do { return try body() } catch let error as NibbleError where error.kind == .badInput {
      throw NibbleError.badInput("\(path: place): \(error.text)")
    }
  }
}

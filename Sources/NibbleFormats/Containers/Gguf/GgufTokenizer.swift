import NibbleCore

/// Makes the files of a Hugging Face tokenizer of what a GGUF file says of its own.
///
/// How a kind of tokenizer works there is in llama.cpp's `llama-vocab.cpp`; how it is written down here, in transformers'
/// `convert_slow_tokenizer.py` and the tokenizer.json of such models.
struct GgufTokenizer {
  private let file: GgufFile
  private let kind: Kind
  private let ids: GgufSpecialIDs

  /// The values of `tokenizer.ggml.model` that are read.
  private enum Kind {
    case sentencePiece, wordPiece, unigram
    case bytePairs(GgufPreTokenizer)
  }

  /// - Throws: `.badInput` naming the kind or the rule that is not known
  init(_ file: GgufFile) throws {
    self.file = file
    ids = GgufSpecialIDs(file)
    func fail(_ key: String, _ reason: MessageText) -> NibbleError {
      .badInput("\(path: file.path): \(key: key) is \(file.metadata[key]?.text ?? "missing"): \(reason)")
    }
    switch file.text("tokenizer.ggml.model") {
    case "llama": kind = .sentencePiece
    case "bert": kind = .wordPiece
    case "t5": kind = .unigram
    case "gpt2":
      guard let rule = file.text("tokenizer.ggml.pre").flatMap({ GgufPreTokenizer(named: $0) }) else {
        throw fail("tokenizer.ggml.pre", "how such a tokenizer cuts texts into words is not known, so its tokens cannot be made")
      }
      guard file.list("tokenizer.ggml.merges") != nil else { throw fail("tokenizer.ggml.merges", "byte pairs cannot be merged without") }
      kind = .bytePairs(rule)
    default: throw fail("tokenizer.ggml.model", "tokenizers of llama, gpt2, bert and t5 are read")
    }
  }

  /// Names of the files, with what makes them.
  var files: [(name: String, make: @Sendable () throws -> [UInt8])] {
    var files: [(name: String, make: @Sendable () throws -> [UInt8])] = [
      ("tokenizer.json", { try self.tokenizer() }), ("tokenizer_config.json", { try self.config() }),
      ("generation_config.json", { try self.generation() }),
    ]
    // The scores have no place in a tokenizer.json.
    if case .sentencePiece = kind, file.list("tokenizer.ggml.scores") != nil {
      files.append(("tokenizer.model", { try GgufSentencePiece.model(GgufVocabulary(file), ids, addsPrefix: addsPrefix) }))
    }
    return files
  }

  private func flag(_ name: String, default usual: Bool) -> Bool { file.bool("tokenizer.ggml." + name) ?? usual }

  /// Whether a text begins with a space.
  private var addsPrefix: Bool {
    if case .sentencePiece = kind { return flag("add_space_prefix", default: true) }
    if case .unigram = kind { return flag("add_space_prefix", default: true) }
    return flag("add_space_prefix", default: false)
  }

  private var addsBegin: Bool {
    switch kind {
    case .sentencePiece, .wordPiece: flag("add_bos_token", default: true)
    case .unigram: flag("add_bos_token", default: false)
    case .bytePairs(let rule): flag("add_bos_token", default: rule.addsBegin)
    }
  }

  private var addsEnd: Bool {
    if case .unigram = kind { return flag("add_eos_token", default: true) }
    return flag("add_eos_token", default: false)
  }

  // MARK: - tokenizer.json

  private func tokenizer() throws -> [UInt8] {
    let vocabulary = try GgufVocabulary(file)
    var out = JSONBytes()
    func part(_ name: String, _ value: JSON) {
      out.text(name)
      out.append(":\(value.text()),\n")
    }
    out.append("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n\"added_tokens\":[")
    addAdded(vocabulary, to: &out)
    out.append("],\n")
    part("normalizer", try normalizer)
    part("pre_tokenizer", preTokenizer)
    part("post_processor", try postProcessor(vocabulary))
    part("decoder", decoder)
    out.append("\"model\":{")
    try addModel(vocabulary, to: &out)
    out.append("}}\n")
    return out.bytes
  }

  private func addAdded(_ vocabulary: GgufVocabulary, to out: inout JSONBytes) {
    var isFirst = true
    for id in 0..<vocabulary.count where vocabulary.types[id].isAdded && !vocabulary.texts[id].isEmpty {
      out.append(isFirst ? "\n{\"id\":" : ",\n{\"id\":")
      isFirst = false
      out.append(String(id))
      out.append(",\"content\":")
      out.text(vocabulary.texts[id])
      // RoBERTa's mask takes the space before it along.
      let strips = id == ids.mask && usesPairs
      out.append(
        ",\"single_word\":false,\"lstrip\":\(strips),\"rstrip\":false,\"normalized\":false,\"special\":\(vocabulary.types[id] != .userDefined)}")
    }
  }

  /// Whether it is RoBERTa's: texts stand between two tokens, pairs have two more.
  private var usesPairs: Bool {
    switch kind {
    case .bytePairs(let rule): addsBegin && addsEnd && flag("add_sep_token", default: rule.addsSeparator)
    case .unigram: addsBegin && addsEnd
    case .sentencePiece, .wordPiece: false
    }
  }

  private static let mark = "\u{2581}"

  private var normalizer: JSON {
    get throws {
      let spaces: JSON = ["type": "Replace", "pattern": ["String": " "], "content": JSON(Self.mark)]
      switch kind {
      case .sentencePiece:
        let prefix: [JSON] = addsPrefix ? [["type": "Prepend", "prepend": JSON(Self.mark)]] : []
        return ["type": "Sequence", "normalizers": .array(prefix + [spaces])]
      case .wordPiece:
        let lowercases = flag("normalizer.lowercase", default: true)
        return [
          "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
          "strip_accents": .bool(flag("normalizer.strip_accents", default: lowercases)), "lowercase": .bool(lowercases),
        ]
      case .unigram:
        let key = "tokenizer.ggml.precompiled_charsmap"
        var steps: [JSON] = []
        if file.metadata[key] != nil {
          steps.append(["type": "Precompiled", "precompiled_charsmap": JSON(Self.base64(try file.bytes(key)))])
        }
        if flag("remove_extra_whitespaces", default: false), !usesPairs {
          steps += [
            ["type": "Strip", "strip_left": false, "strip_right": true],
            ["type": "Replace", "pattern": ["Regex": " {2,}"], "content": JSON(Self.mark)],
          ]
        }
        return steps.isEmpty ? .null : ["type": "Sequence", "normalizers": .array(steps)]
      case .bytePairs(let rule): return rule.normalizes ? ["type": "NFC"] : .null
      }
    }
  }

  private var metaspace: JSON {
    ["type": "Metaspace", "replacement": JSON(Self.mark), "prepend_scheme": addsPrefix ? "always" : "never", "split": true]
  }

  private var preTokenizer: JSON {
    switch kind {
    case .sentencePiece: .null
    case .wordPiece: ["type": "BertPreTokenizer"]
    // XLM-RoBERTa's cuts at any white space first.
    case .unigram: usesPairs ? ["type": "Sequence", "pretokenizers": [["type": "WhitespaceSplit"], metaspace]] : metaspace
    case .bytePairs(let rule): rule.json
    }
  }

  private var decoder: JSON {
    switch kind {
    case .sentencePiece:
      let steps: [JSON] = [
        ["type": "Replace", "pattern": ["String": JSON(Self.mark)], "content": " "], ["type": "ByteFallback"], ["type": "Fuse"],
      ]
      return ["type": "Sequence", "decoders": .array(steps + (addsPrefix ? [["type": "Strip", "content": " ", "start": 1, "stop": 0]] : []))]
    case .wordPiece: return ["type": "WordPiece", "prefix": "##", "cleanup": true]
    case .unigram: return metaspace
    case .bytePairs: return ["type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true]
    }
  }

  private func postProcessor(_ vocabulary: GgufVocabulary) throws -> JSON {
    func token(_ id: Int?, _ role: String) throws -> (text: String, id: Int) {
      guard let id, (0..<vocabulary.count).contains(id) else {
        throw NibbleError.badInput("\(path: file.path): texts get a \(role) token, and \(key: "tokenizer.ggml.\(role)_token_id") is missing")
      }
      return (vocabulary.text(id), id)
    }
    func pair(_ token: (text: String, id: Int)) -> JSON { [JSON(token.text), JSON(token.id)] }
    if case .wordPiece = kind {
      return ["type": "BertProcessing", "sep": pair(try token(ids.separator, "seperator")), "cls": pair(try token(ids.bos, "bos"))]
    }
    if usesPairs {
      return [
        "type": "RobertaProcessing", "sep": pair(try token(ids.eos, "eos")), "cls": pair(try token(ids.bos, "bos")), "trim_offsets": true,
        "add_prefix_space": false,
      ]
    }
    let begin = addsBegin ? try token(ids.bos, "bos") : nil, end = addsEnd ? try token(ids.eos, "eos") : nil
    guard begin != nil || end != nil else { return .null }
    var special: [(key: String, value: JSON)] = []
    for token in [begin, end].compactMap({ $0 }) where !special.contains(where: { $0.key == token.text }) {
      special.append((token.text, ["id": JSON(token.text), "ids": JSON([token.id]), "tokens": JSON([token.text])]))
    }
    func around(_ name: String, _ type: Int) -> [JSON] {
      func mark(_ token: (text: String, id: Int)?) -> [JSON] {
        token.map { [["SpecialToken": ["id": JSON($0.text), "type_id": JSON(type)]]] } ?? []
      }
      return mark(begin) + [["Sequence": ["id": JSON(name), "type_id": JSON(type)]]] + mark(end)
    }
    return [
      "type": "TemplateProcessing", "single": .array(around("A", 0)), "pair": .array(around("A", 0) + around("B", 1)),
      "special_tokens": .object(special),
    ]
  }

  private func addModel(_ vocabulary: GgufVocabulary, to out: inout JSONBytes) throws {
    func addVocabulary(_ spell: (Int, inout JSONBytes) -> Void) {
      out.append("\"vocab\":{")
      var isFirst = true
      for id in 0..<vocabulary.count where !vocabulary.isFiller(id) {
        out.append(isFirst ? "\n" : ",\n")
        isFirst = false
        spell(id, &out)
        out.append(":\(id)")
      }
      out.append("}")
    }
    let unknown = ids.unknown.flatMap { (0..<vocabulary.count).contains($0) ? $0 : nil }
    switch kind {
    case .sentencePiece:
      let hasBytes = vocabulary.types.contains(.byte)
      out.append("\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\(JSON(unknown.map(vocabulary.text)).text()),")
      out.append("\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":true,\"byte_fallback\":\(hasBytes),\"ignore_merges\":false,")
      addVocabulary { id, out in out.text(vocabulary.texts[id]) }
      out.append(",\n\"merges\":")
      try GgufSentencePiece.addMerges(vocabulary, to: &out, path: file.path)
    case .wordPiece:
      out.append("\"type\":\"WordPiece\",\"unk_token\":\(JSON(unknown.map(vocabulary.text) ?? "[UNK]").text()),")
      out.append("\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,")
      let mark = Array(Self.mark.utf8)
      addVocabulary { id, out in
        let text = vocabulary.texts[id]
        // Older files have marks among the words.
        if vocabulary.types[id] == .control || text.first == UInt8(ascii: "[") && text.last == UInt8(ascii: "]") {
          out.text(text)
        } else if text.starts(with: mark) {
          out.text(text.dropFirst(mark.count))
        } else {
          out.text(Array("##".utf8) + text)
        }
      }
    case .unigram:
      guard vocabulary.scores.count == vocabulary.count else {
        throw NibbleError.badInput("\(path: file.path): \(key: "tokenizer.ggml.scores") is missing, which tokens of this kind are chosen by")
      }
      out.append("\"type\":\"Unigram\",\"unk_id\":\((unknown.map { JSON($0) } ?? JSON.null).text()),\"byte_fallback\":false,\"vocab\":[")
      for id in 0..<vocabulary.count {
        out.append(id == 0 ? "\n[" : ",\n[")
        out.text(vocabulary.texts[id])
        out.append(",\(Double(vocabulary.scores[id]))]")
      }
      out.append("]")
    case .bytePairs(let rule):
      out.append("\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\(JSON(unknown.map(vocabulary.text)).text()),\"continuing_subword_prefix\":null,")
      out.append("\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":\(rule.ignoresMerges),")
      addVocabulary { id, out in out.text(vocabulary.texts[id]) }
      out.append(",\n\"merges\":[")
      let merges = try file.texts("tokenizer.ggml.merges")
      for index in 0..<merges.count {
        out.append(index == 0 ? "\n" : ",\n")
        out.text(merges[index])
      }
      out.append("]")
    }
  }

  private static func base64(_ bytes: [UInt8]) -> String {
    let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var text: [UInt8] = []
    text.reserveCapacity(bytes.count / 3 * 4 + 4)
    for start in stride(from: 0, to: bytes.count, by: 3) {
      let count = min(3, bytes.count - start)
      let word = (0..<count).reduce(0) { $0 | Int(bytes[start + $1]) << (16 - 8 * $1) }
      for place in 0..<4 { text.append(place <= count ? digits[word >> (18 - 6 * place) & 63] : UInt8(ascii: "=")) }
    }
    return String(decoding: text, as: UTF8.self)
  }

  // MARK: - tokenizer_config.json, generation_config.json

  private func config() throws -> [UInt8] {
    let texts = try file.texts("tokenizer.ggml.tokens")
    var members: [(key: String, value: JSON)] = []
    func add(_ role: String, _ id: Int?) {
      if let id, (0..<texts.count).contains(id) { members.append((role, JSON(String(decoding: texts[id], as: UTF8.self)))) }
    }
    add("bos_token", ids.bos)
    add("eos_token", ids.eos)
    add("unk_token", ids.unknown)
    add("pad_token", ids.pad)
    add("mask_token", ids.mask)
    add("sep_token", ids.separator ?? (usesPairs ? ids.eos : nil))
    if case .wordPiece = kind { add("cls_token", ids.bos) } else if usesPairs { add("cls_token", ids.bos) }
    if case .sentencePiece = kind {
      members += [("add_bos_token", .bool(addsBegin)), ("add_eos_token", .bool(addsEnd)), ("add_prefix_space", .bool(addsPrefix))]
      let added = try addedByUsers()
      if !added.isEmpty { members.append(("added_tokens_decoder", .object(added))) }
    }
    if case .wordPiece = kind { members.append(("do_lower_case", .bool(flag("normalizer.lowercase", default: true)))) }
    members += [("clean_up_tokenization_spaces", false), ("tokenizer_class", JSON(className))]
    if let architecture = file.text("general.architecture"), let length = file.whole(architecture + ".context_length") {
      members.append(("model_max_length", JSON(length)))
    }
    if let template = try template { members.append(("chat_template", template)) }
    return JSON.object(members).fileBytes
  }

  /// Tokens that are no pieces and no marks: `tokenizer.model` alone does not say so to the converters that read it.
  private func addedByUsers() throws -> [(key: String, value: JSON)] {
    let vocabulary = try GgufVocabulary(file)
    return (0..<vocabulary.count).filter { vocabulary.types[$0] == .userDefined && !vocabulary.texts[$0].isEmpty }.map { id in
      (
        String(id),
        ["content": JSON(vocabulary.text(id)), "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": false]
      )
    }
  }

  private var className: String {
    switch kind {
    case .sentencePiece: "LlamaTokenizer"
    case .wordPiece: "BertTokenizer"
    case .unigram: usesPairs ? "XLMRobertaTokenizer" : "T5Tokenizer"
    case .bytePairs(let rule): rule.addsSeparator ? "RobertaTokenizer" : "PreTrainedTokenizerFast"
    }
  }

  /// One text, or several by name: `tokenizer.chat_template` and those that `tokenizer.chat_templates` names.
  private var template: JSON? {
    get throws {
      let key = "tokenizer.chat_template"
      func text(_ key: String) throws -> String? {
        guard let value = file.metadata[key] else { return nil }
        guard case .text(let text) = value else { throw NibbleError.badInput("\(path: file.path): \(key: key) is \(value.text), expected a text") }
        return text
      }
      let main = try text(key)
      guard file.metadata[key + "s"] != nil else { return main.map { JSON($0) } }
      let names = try file.texts(key + "s")
      var all: [JSON] = main.map { [["name": "default", "template": JSON($0)]] } ?? []
      for index in 0..<names.count {
        let name = String(decoding: names[index], as: UTF8.self)
        guard name != "default", let text = try text("\(key).\(name)") else { continue }
        all.append(["name": JSON(name), "template": JSON(text)])
      }
      return all.isEmpty ? nil : .array(all)
    }
  }

  /// What llama.cpp takes for the end of a text or of a turn where a file does not say.
  private static let ends: Set = [
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<EOT>",
    "<｜end▁of▁sentence｜>", "<end_of_utterance>",
  ]

  /// Sampling settings that the file recommends.
  private var sampling: [(key: String, value: JSON)] {
    let names = [("temp", "temperature"), ("top_k", "top_k"), ("top_p", "top_p"), ("min_p", "min_p"), ("penalty_repeat", "repetition_penalty")]
    let found = names.compactMap { name, ours -> (key: String, value: JSON)? in
      let key = "general.sampling." + name
      return file.whole(key).map { (ours, JSON($0)) } ?? file.decimal(key).map { (ours, JSON($0)) }
    }
    // Only who draws tokens asks for these.
    let draws = found.contains { ["temperature", "top_k", "top_p", "min_p"].contains($0.key) }
    return found + (draws ? [("do_sample", true)] : [])
  }

  private func generation() throws -> [UInt8] {
    var members: [(key: String, value: JSON)] = []
    if let bos = ids.bos { members.append(("bos_token_id", JSON(bos))) }
    var ends = [ids.eos, ids.eot, ids.eom].compactMap { $0 }
    let vocabulary = try GgufVocabulary(file)
    for id in 0..<vocabulary.count where vocabulary.types[id] == .control && Self.ends.contains(vocabulary.text(id)) { ends.append(id) }
    let unique = ends.enumerated().filter { ends.firstIndex(of: $0.element) == $0.offset }.map(\.element)
    if unique.count == 1 { members.append(("eos_token_id", JSON(unique[0]))) }
    if unique.count > 1 { members.append(("eos_token_id", JSON(unique))) }
    if let pad = ids.pad { members.append(("pad_token_id", JSON(pad))) }
    let suppressed = "tokenizer.ggml.suppress_tokens"
    members += sampling
    if file.metadata[suppressed] != nil { members.append(("suppress_tokens", JSON(try file.wholes(suppressed)))) }
    return JSON.object(members).fileBytes
  }
}

/// JSON that is written piece by piece: a vocabulary is too large to be a value first.
struct JSONBytes {
  private(set) var bytes: [UInt8] = []

  mutating func append(_ text: String) { bytes.append(contentsOf: text.utf8) }
  mutating func text(_ text: String) { self.text(Array(text.utf8)) }

  /// A text in quotes.
  mutating func text(_ utf8: some Collection<UInt8>) {
    bytes.append(UInt8(ascii: "\""))
    for byte in utf8 {
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"):
        bytes.append(UInt8(ascii: "\\"))
        bytes.append(byte)
      case 0..<0x20:
        let digits = Array("0123456789abcdef".utf8)
        bytes.append(contentsOf: "\\u00".utf8)
        bytes.append(digits[Int(byte >> 4)])
        bytes.append(digits[Int(byte & 15)])
      default: bytes.append(byte)
      }
    }
    bytes.append(UInt8(ascii: "\""))
  }
}

extension Checkpoint {
  /// Adds the files of the tokenizer; one that cannot be read is a warning, and refused where it is needed.
  mutating func addTokenizer(of file: GgufFile, _ model: GgufSource?) throws {
    let kind = file.text("tokenizer.ggml.model")
    guard let kind, kind != "none", kind != "no_vocab" else { return }
    let rows = tensors.first { ["model.embed_tokens.weight", "transformer.wte.weight", "token_embd.weight"].contains($0.name.text)
      || $0.name.text.hasSuffix("embeddings.word_embeddings.weight") }?.logicalShape.first
    try GgufVocabulary.check(file, rows: rows)
    do {
      for (name, make) in try GgufTokenizer(file).files { smallFiles.append(SmallFile(name: name, making: make)) }
    } catch let error as NibbleError {
      unreadable = [("tokenizer.json", error)]
      warnings.append(.init(.compatibility, error.text))
    }
  }
}

import NibbleCore

/// What a model is called and how it is best sampled: the keys under `general`.
///
/// Names and sizes come from the model card, the configuration's `_name_or_path` and the folder's name, in this order, by the rules of gguf-py's
/// `Metadata`.
struct GeneralKeys {
  private let parts: [NameParts]
  private let card: ModelCard
  private let generation: JSON?
  private let weights: Int
  private let experts: (count: Int, weights: Int)?
  /// What a GGUF file says of its model already.
  var carried: [(key: String, value: GgufValue)] = []

  /// - Parameters:
  ///   - name: of the folder or file
  ///   - weights: numbers of all tensors
  ///   - experts: how many a layer has, and the numbers of all of them; nil where there are none
  init(name: String, _ config: JSON, card: ModelCard, generation: JSON?, weights: Int, experts: (count: Int, weights: Int)?) {
    var names: [String] = []
    if let known = config["_name_or_path"]?.string, known.count(where: { $0 == "/" }) <= 1 { names.append(known) }
    names.append(name)
    parts = names.map { NameParts($0, weights: weights) }
    (self.card, self.generation, self.weights, self.experts) = (card, generation, weights, experts)
  }

  func write(_ out: inout GgufMetadata) throws {
    out["general.type"] = .text("model")
    for (key, names, isWhole) in [
      ("top_k", ["top_k"], true), ("top_p", ["top_p"], false), ("min_p", ["min_p"], false), ("xtc_probability", ["xtc_probability"], false),
      ("xtc_threshold", ["xtc_threshold"], false), ("temp", ["temperature"], false), ("penalty_last_n", ["penalty_last_n"], true),
      ("penalty_repeat", ["penalty_repeat", "repetition_penalty"], false), ("mirostat", ["mirostat"], true),
      ("mirostat_tau", ["mirostat_tau"], false), ("mirostat_eta", ["mirostat_eta"], false),
    ] {
      guard let value = names.lazy.compactMap({ generation?[$0] }).first else { continue }
      if isWhole, let whole = value.int.flatMap(Int32.init(exactly:)) { out["general.sampling." + key] = .i32(whole) }
      if !isWhole, let number = value.double { out["general.sampling." + key] = .f32(Float(number)) }
    }
    func first(_ part: (NameParts) -> String?) -> String? { parts.lazy.compactMap(part).first }
    out["general.name"] = .text(card.text("name", "model_name") ?? first(\.name).map(NameParts.title) ?? "model")
    if let author = card.text("author", "model_author", "model_creator") { out["general.author"] = .text(author) }
    if let version = card.text("version", "model_version") ?? first(\.version) { out["general.version"] = .text(version) }
    if let organization = card.text("organization", "model_organization") ?? first(\.organization).map(NameParts.title) {
      out["general.organization"] = .text(organization)
    }
    if let finetune = card.text("finetune", "model_finetune") ?? first(\.finetune) { out["general.finetune"] = .text(finetune) }
    if let base = card.text("basename", "model_basename", "model_type") ?? first(\.basename) { out["general.basename"] = .text(base) }
    if let description = card.text("description", "model_description") { out["general.description"] = .text(description) }
    out["general.size_label"] = .text(card.text("size_label", "model_size_label") ?? first(\.size) ?? label)
    card.writeLicence(&out)
    card.writeOrigin(weights: weights, &out)
    for (key, value) in carried { out[key] = value }
  }

  /// Texts and counts under `general` that say nothing of how a file is stored, in order of keys.
  ///
  /// - Throws: `.badInput` for lists that are cut
  static func carried(from file: GgufFile) throws -> [(key: String, value: GgufValue)] {
    let own: Set<String> = [
      "general.architecture", "general.type", "general.file_type", "general.quantization_version", "general.alignment",
    ]
    let keys = file.metadata.keys.filter { $0.hasPrefix("general.") && !$0.hasPrefix("general.sampling.") && !own.contains($0) }
    return try keys.sorted().compactMap { key in
      switch file.metadata[key] {
      case .text(let text): return (key, .text(text))
      case .whole(let number): return UInt32(exactly: number).map { (key, .u32($0)) }
      case .list(let list) where list.kind == .text && list.count <= 1000:
        let texts = try file.texts(key)
        return (key, .texts((0..<texts.count).map { String(decoding: texts[$0], as: UTF8.self) }))
      default: return nil
      }
    }
  }

  /// `135M`, or `8x7B` for eight experts with the numbers of one and of what all share.
  private var label: String {
    guard let experts, experts.count > 0 else { return Self.sizeLabel(weights) }
    return "\(experts.count)x\(Self.sizeLabel(weights - experts.weights + experts.weights / experts.count))"
  }

  /// `135M`: at least two digits.
  static func sizeLabel(_ weights: Int) -> String {
    let scales: [(limit: Double, factor: Double, unit: String)] = [(1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M"), (0, 1e-3, "K")]
    let scale = scales.first { Double(weights) > $0.limit } ?? scales[3]
    let value = Double(weights) * scale.factor
    let whole = value.rounded(.toNearestOrEven)
    let digits = whole == 0 ? 0 : String(Int(whole)).count
    return decimal(value, max(2 - digits, 0)) + scale.unit
  }
}

/// A model's name taken apart: `org/Base-v2-7B-instruct`.
struct NameParts {
  private(set) var name: String?
  private(set) var organization: String?
  private(set) var basename: String?
  private(set) var finetune: String?
  private(set) var version: String?
  private(set) var size: String?

  private enum Kind {
    case basename, size, finetune, version, type
  }

  init(_ id: String, weights: Int) {
    guard !id.contains(" ") else {
      name = id
      return
    }
    let halves = id.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
    let full = halves[halves.count - 1]
    name = full
    if halves.count == 2, !halves[0].hasPrefix(".") { organization = halves[0] }
    var words = full.split(separator: "-").map(String.init)
    var kinds = [Set<Kind>](repeating: [], count: words.count)
    for (index, word) in words.enumerated() {
      if Self.matches(word, #"(v|iter)?\d+([.]\d+)*"#) {
        kinds[index].insert(.version)
      } else if Self.matches(word, #"i?q\d(_\w)*|b?fp?(16|32)"#) {
        kinds[index].insert(.type)
        words[index] = word.uppercased()
      } else if index > 0, Self.matches(word, #"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)"#) {
        let (size, isSize) = Self.size(word, weights)
        kinds[index].insert(isSize ? .size : .finetune)
        words[index] = size
      } else if index > 0, Self.matches(word, "chat|instruct|vision|lora") {
        kinds[index].insert(.finetune)
      }
    }
    func isDigit(_ character: Character) -> Bool { character.isNumber }
    // Sizes in words count only where there are none in numbers.
    if zip(words, kinds).contains(where: { $1.contains(.size) && $0.contains(where: isDigit) }) {
      for index in words.indices where kinds[index].contains(.size) && words[index].allSatisfy(\.isLetter) { kinds[index].remove(.size) }
    }
    var atStart = true
    for index in words.indices {
      if atStart, kinds[index].isEmpty && words[index].first?.isLetter == true || kinds[index].contains(.version) {
        kinds[index].insert(.basename)
      } else {
        atStart = false
        if kinds[index].isEmpty { kinds[index].insert(.finetune) }
      }
    }
    for index in words.indices.reversed() {
      guard kinds[index].contains(.basename), kinds[index].count > 1 else { break }
      kinds[index].remove(.basename)
    }
    func joined(_ kind: Kind, without other: Kind? = nil) -> String? {
      var found: [String] = []
      for (word, own) in zip(words, kinds) where own.contains(kind) && other.map({ !own.contains($0) }) != false {
        if kind != .size || !found.contains(word) { found.append(word) }
      }
      return found.isEmpty ? nil : found.joined(separator: "-")
    }
    (basename, size, finetune, version) = (joined(.basename), joined(.size), joined(.finetune), joined(.version, without: .basename))
    if size == nil, finetune == nil, version == nil { basename = nil }
  }

  private static func matches(_ word: String, _ pattern: String) -> Bool {
    (try? Pattern("(?i)^(?:\(pattern))$").isFound(in: word)) ?? false
  }

  /// A size as labels have it, and whether it can be the model's own: a context's length is none.
  private static func size(_ word: String, _ weights: Int) -> (String, Bool) {
    var letters = Array(word.replacing("_", with: "."))
    // bloom-7b1
    if letters[letters.count - 1].isNumber, letters.count > 2 {
      letters = letters.dropLast(2) + [".", letters[letters.count - 1], letters[letters.count - 2]]
    }
    let isNumber = letters.count > 1 && letters[letters.count - 2].isNumber
    if isNumber, "kmbt".contains(letters[letters.count - 1]) { letters[letters.count - 1] = Character(letters[letters.count - 1].uppercased()) }
    let unit = letters[letters.count - 1]
    if weights != 0, let number = Double(String(letters.dropLast())), let scale = " KMBT".firstIndex(of: unit) {
      var label = number
      for _ in 0..<" KMBT".distance(from: " KMBT".startIndex, to: scale) { label *= 1000 }
      if abs(label - Double(weights)) > Double(7 * weights / 8) {
        return (String(letters.dropLast()) + unit.lowercased(), false)
      }
    }
    return (String(letters), true)
  }

  /// Words begin with capitals, but for versions and words that have some.
  static func title(_ name: String) -> String {
    name.replacing("-", with: " ").split(whereSeparator: \.isWhitespace).map { word in
      let word = String(word)
      guard word == word.lowercased(), word != word.uppercased(), !matches(word, #"v\d+(?:\.\d+)*|\d.*"#) else { return word }
      // As Python's title(): a letter after what is no letter is a capital.
      var (out, before) = ("", Character(" "))
      for letter in word {
        out += before.isLetter ? letter.lowercased() : letter.uppercased()
        before = letter
      }
      return out
    }.joined(separator: " ")
  }
}

import NibbleCore

/// `adapter_config.json`, as PEFT writes it: what of it changes arithmetic.
public struct AdapterConfig: Sendable {
  /// Which parts of the base were trained beside the factors.
  public enum Bias: String, Sendable {
    case none, all
    case loraOnly = "lora_only"
  }

  /// Rank and alpha of modules without a pattern of their own.
  public let rank: Int
  public let alpha: Double
  /// Whether the scale is alpha / √rank instead of alpha / rank.
  public let isRankStabilized: Bool
  /// How modules are adapted.
  package private(set) var method: any AdapterMethod.Type
  /// Keys that are `true`, of those that are true or false.
  package let flags: Set<String>
  public let bias: Bias
  /// What the base is called where the adapter was trained.
  public let baseName: String?
  /// CAUSAL_LM, SEQ_CLS and so on.
  public let taskType: String?
  /// Modules trained whole.
  public let modulesToSave: [String]
  /// Rows of embeddings that were trained without the others: a module's name, or nil for the input embedding, and its tokens.
  let tokenRows: [(module: String?, tokens: [Int])]
  /// Parameters that factors are of instead of modules, by the ends of their names.
  let targetParameters: [String]
  /// Layers of the base one after another in the model that was trained; empty for the base as it is.
  public let layerReplication: [Range<Int>]
  /// Keys nibble does not know, which it ignores.
  public let unknownKeys: [String]
  /// The configuration as it stands in the file.
  public let json: JSON
  private let rankPattern: PatternTable
  private let alphaPattern: PatternTable
  private let settings: [(key: String, value: Double, pattern: PatternTable)]

  /// Reads the text of an `adapter_config.json`.
  ///
  /// - Parameter place: the file, for messages
  /// - Throws: `.badInput` naming what is wrong, or what changes arithmetic and is not implemented
  public init(_ json: JSON, place: String) throws {
    self.json = json
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: place): \(reason)") }
    func value(_ key: String) -> JSON? { json[key].flatMap { $0 == JSON.null ? nil : $0 } }
    func flag(_ key: String) throws -> Bool {
      guard let found = value(key) else { return false }
      guard let flag = found.bool else { throw fail("\(key: key) is \(quoted(found.text())), expected true or false") }
      return flag
    }
    guard json.members != nil else { throw fail("not a JSON object") }
    let kind = value("peft_type")?.string ?? ""
    let flags = try Set((AdapterMethods.flags + ["use_rslora", "fan_in_fan_out"]).filter { try flag($0) })
    guard let method = AdapterMethods.method(kind: kind, flags: flags) else {
      let known = Set(AdapterMethods.all.map { $0.kind }).sorted().joined(separator: ", ")
      throw fail("\(key: "peft_type") = \(quoted(kind)) is not implemented; \(known) are")
    }
    // Flags of other methods of its kind, and of parts that it does not have.
    let own = method.parts.compactMap(\.flag) + (method.flag.map { [$0] } ?? [])
    if let odd = AdapterMethods.flags.first(where: { flags.contains($0) && !own.contains($0) }) {
      throw fail("\(key: odd) does not go with \(method.name)")
    }
    (self.method, self.flags) = (method, flags)
    // PEFT's default stands for a key that is missing; it computes nothing with null.
    let numberKeys = (rank: method.rankKey, alpha: method.alphaKey)
    for key in [numberKeys.rank, numberKeys.alpha].compactMap({ $0 }) where json[key] == .null {
      throw fail("\(key: key) is null, expected a number")
    }
    rank = try numberKeys.rank.map { key in
      guard let rank = value(key).map({ $0.int }) ?? method.standardRank, (1...1 << 20).contains(rank) else {
        throw fail("\(key: key) is \(quoted(json[key]?.text() ?? "")), expected a whole number from 1")
      }
      return rank
    } ?? 0
    alpha = try numberKeys.alpha.map { key in
      guard let alpha = value(key).map({ $0.double }) ?? 8, alpha.isFinite else {
        throw fail("\(key: key) is \(quoted(json[key]?.text() ?? "")), expected a number")
      }
      return alpha
    } ?? 1
    isRankStabilized = flags.contains("use_rslora")
    // Each method has a word of its own for the last.
    let biasName = value("bias").map { $0.string ?? "" } ?? "none"
    guard let bias = biasName.hasSuffix("_only") ? .loraOnly : Bias(rawValue: biasName) else {
      throw fail("\(key: "bias") = \(quoted(json["bias"]?.text() ?? "")) is not implemented; none, all and lora_only are")
    }
    self.bias = bias
    baseName = value("base_model_name_or_path")?.string
    taskType = value("task_type")?.string
    if let saved = value("modules_to_save"), saved.array?.allSatisfy({ $0.string != nil }) != true {
      throw fail("\(key: "modules_to_save") is \(quoted(saved.text())), expected a list of names")
    }
    if let targets = value("target_modules"), targets.string == nil, targets.array?.allSatisfy({ $0.string != nil }) != true {
      throw fail("\(key: "target_modules") is \(quoted(targets.text())), expected a pattern or a list of names")
    }
    if let parameters = value("target_parameters"), parameters.array?.allSatisfy({ $0.string != nil }) != true {
      throw fail("\(key: "target_parameters") is \(quoted(parameters.text())), expected a list of names")
    }
    targetParameters = method.keys.contains("target_parameters") ? value("target_parameters")?.array?.compactMap(\.string) ?? [] : []
    layerReplication = method.keys.contains("layer_replication") ? try value("layer_replication").map { try Self.layerRanges($0, place: place) } ?? [] : []
    if let reason = Self.refusalOfParameters(targetParameters, json, flags: flags, method) { throw fail(reason) }
    if let layers = value("layers_to_transform"), layers.int == nil, layers.array?.allSatisfy({ $0.int != nil }) != true {
      throw fail("\(key: "layers_to_transform") is \(quoted(layers.text())), expected whole numbers")
    }
    modulesToSave = value("modules_to_save")?.array?.compactMap(\.string) ?? []
    func tokens(_ list: JSON) throws -> [Int] {
      guard let ids = list.array?.map(\.int), ids.allSatisfy({ ($0 ?? -1) >= 0 }) else {
        throw fail("\(key: "trainable_token_indices") is \(quoted(list.text())), expected ids of tokens")
      }
      let found = ids.compactMap { $0 }
      guard Set(found).count == found.count else { throw fail("\(key: "trainable_token_indices") names a token twice") }
      return found
    }
    switch value("trainable_token_indices") {
    case .object(let members)?: tokenRows = try members.map { ($0.key, try tokens($0.value)) }
    case let list?: tokenRows = [(nil, try tokens(list))]
    case nil: tokenRows = []
    }
    func table(_ key: String, expected: String, _ entry: (String, JSON) -> (name: String, Double)?) throws -> PatternTable {
      let rows = try (value(key)?.members ?? []).map { name, value in
        guard let (pattern, number) = entry(name, value) else {
          throw fail("\(key: key): \(quoted(name)) is \(quoted(value.text())), expected \(expected)")
        }
        do { return (try ModulePattern(pattern), number) } catch let error as NibbleError {
          throw fail("\(key: key): \(error.text)")
        }
      }
      if let other = value(key), other.members == nil { throw fail("\(key: key) is \(quoted(other.text())), expected an object") }
      return PatternTable(place: "\(path: place): \(key: key)", rows)
    }
    rankPattern = try table("rank_pattern", expected: "a number from 1.0 to 1048576.0") { name, value in
      method.rankPattern(name, value).map { ($0.name, $0.rank) }
    }
    alphaPattern = try table("alpha_pattern", expected: "a number from \(1e-30) to \(1e30)") { name, value in
      value.double.flatMap { (1e-30...1e30).contains($0) ? (name, $0) : nil }
    }
    settings = try method.settings.map { one in
      guard let number = value(one.key).map({ one.number($0) }) ?? one.standard else {
        let found = value(one.key).map { "is \(quoted($0.text()))" } ?? "is missing"
        throw fail("\(key: one.key) \(found), expected \(one.expected)")
      }
      return (one.key, number, try table(one.patternKey, expected: one.expected) { name, value in one.number(value).map { (name, $0) } })
    }
    if let reason = method.refusal(json) { throw fail(reason) }
    let ownKeys = method.keys.union(method.settings.flatMap { [$0.key, $0.patternKey] })
      .union([method.rankKey, method.alphaKey, method.dropoutKey].compactMap { $0 })
    unknownKeys = (json.members ?? []).map(\.key).filter { !Self.known.contains($0) && !ownKeys.contains($0) }
  }

  /// The same for a method that the file's tensors show.
  func adopting(_ method: any AdapterMethod.Type) -> AdapterConfig {
    var config = self
    config.method = method
    return config
  }

  /// As it says that of plain LoRA factors what it says of numbers that fold into them.
  var plain: JSON {
    guard method.foldsToLoRA else { return json }
    let own = (method.flag.map { [$0] } ?? []) + method.settings.flatMap { [$0.key, $0.patternKey] }
    return own.reduce(json) { $0.removing($1) }.setting("peft_type", to: JSON(LoRA.kind))
  }

  /// Keys of adapters of every method.
  private static let known: Set<String> = [
    "peft_type", "task_type", "bias", "base_model_name_or_path", "modules_to_save", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "fan_in_fan_out", "inference_mode", "revision", "peft_version", "auto_mapping",
    "ensure_weight_tying", "trainable_token_indices",
  ]

  /// Whether the adapter asks for tied parameters to stay tied, be PEFT able to or not.
  package var ensuresWeightTying: Bool { json["ensure_weight_tying"]?.bool ?? false }

  /// Whether a head that shares the embedding's weight shares what takes its place: PEFT leaves the head as it was otherwise, and keeps
  /// them together only under the names it knows.
  package var tiesReplacedEmbedding: Bool {
    ensuresWeightTying
      && modulesToSave.contains { name in ["embed_tokens", "lm_head"].contains { ModuleChoice.is(name, $0) } }
  }

  /// What messages call the method.
  public var methodName: String { isRankStabilized && !method.scalesOutputs ? "rs" + method.name : method.name }

  /// The rank the configuration gives module `path`: its first matching pattern's, or the common one.
  public func rank(of path: String) throws -> Int { try rank(ofParameter: patternPath(path)) }

  /// The same of a parameter by its full name.
  func rank(ofParameter name: String) throws -> Int { try rankPattern.value(of: name).map { Int($0) } ?? rank }

  /// Module `path`'s alpha: its first matching pattern's, or the common one.
  public func alpha(of path: String) throws -> Double { try alphaPattern.value(of: patternPath(path)) ?? alpha }

  /// The numbers module `path` has of the method's own.
  package func settings(of path: String) throws -> MethodSettings {
    let own: MethodSettings = method.rankKey == nil ? [:] : [MethodSetting.rank: Double(try rank(of: path))]
    return try settings.reduce(into: own) { $0[$1.key] = try $1.pattern.value(of: path) ?? $1.value }
  }

  /// What module `path` multiplies its product of factors with.
  ///
  /// - Parameter rank: the module's rank
  public func scale(of path: String, rank: Int) throws -> Double {
    guard method.alphaKey != nil else { return 1 }
    return method.scale(alpha: try alpha(of: path), rank: rank, common: self.rank, isStabilized: isRankStabilized)
  }
}

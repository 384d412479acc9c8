import NibbleCore
import Synchronization

/// A pattern for the end of a module's path, as keys of `rank_pattern` are: `(.*\.)?(KEY)$`. Names need no search.
enum ModulePattern: Sendable {
  /// Bytes, nil for any one.
  case name([UInt8?])
  case pattern(Pattern)

  init(_ key: String) throws {
    var bytes: [UInt8?] = []
    var isEscaped = false
    for byte in key.utf8 {
      let isWord = (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte) || byte == 0x5F
      switch byte {
      case 0x2E:
        bytes.append(isEscaped ? byte : nil)
        isEscaped = false
      case 0x5C where !isEscaped: isEscaped = true
      case _ where isWord && !isEscaped: bytes.append(byte)
      default:
        self = .pattern(try Pattern(ofFile: #"^(.*\.)?(\#(key))$"#, lineAnchors: false))
        return
      }
    }
    guard !isEscaped else {
      self = .pattern(try Pattern(ofFile: #"^(.*\.)?(\#(key))$"#, lineAnchors: false))
      return
    }
    self = .name(bytes)
  }

  func matches(_ path: String) throws -> Bool {
    switch self {
    case .pattern(let pattern): return try pattern.isFound(in: path)
    case .name(let bytes):
      let own = Array(path.utf8)
      guard own.count >= bytes.count else { return false }
      let start = own.count - bytes.count
      guard start == 0 || own[start - 1] == 0x2E else { return false }
      return bytes.indices.allSatisfy { bytes[$0] == nil && own[start + $0] != 0x0A || bytes[$0] == own[start + $0] }
    }
  }
}

/// Values by pattern: the first pattern that is found decides. All questions together are answered in bounded time.
final class PatternTable: Sendable {
  /// The file and the key.
  private let place: MessageText
  private let rows: [(pattern: ModulePattern, value: Double)]
  private let nanoseconds = Atomic<Int>(0)
  private static let limit = 10_000_000_000

  init(place: MessageText, _ rows: [(pattern: ModulePattern, value: Double)]) {
    self.place = place
    self.rows = rows
  }

  /// - Throws: `.badInput` when the patterns have taken longer than any sensible ones would
  func value(of path: String) throws -> Double? {
    guard !rows.isEmpty else { return nil }
    // A busy machine is no reason to refuse a file.
    let started = threadSeconds()
    defer { nanoseconds.wrappingAdd(Int((threadSeconds() - started) * 1e9), ordering: .relaxed) }
    for (index, row) in rows.enumerated() {
      let found: Bool
      do { found = try row.pattern.matches(path) } catch let error as NibbleError {
        throw NibbleError.badInput("\(place): \(error.text)")
      }
      if found { return row.value }
      guard index % 16 != 0 || nanoseconds.load(ordering: .relaxed) + Int((threadSeconds() - started) * 1e9) < Self.limit else {
        throw NibbleError.badInput("\(place): its patterns take too long to match")
      }
    }
    return nil
  }
}

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
  /// Whether rows are scaled to trained magnitudes.
  public let isDoRA: Bool
  public let bias: Bias
  /// Whether the second factor has a bias.
  public let hasFactorBias: Bool
  /// What the base is called where the adapter was trained.
  public let baseName: String?
  /// CAUSAL_LM, SEQ_CLS and so on.
  public let taskType: String?
  /// Modules trained whole.
  public let modulesToSave: [String]
  /// Rows of embeddings that were trained alone: a module's name, or nil for the input embedding, and its tokens.
  let tokenRows: [(module: String?, tokens: [Int])]
  /// Keys nibble does not know, which it leaves alone.
  public let unknownKeys: [String]
  /// The configuration as it stands in the file.
  public let json: JSON
  private let rankPattern: PatternTable
  private let alphaPattern: PatternTable

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
    guard kind == "LORA" else { throw fail("\(key: "peft_type") = \(quoted(kind)) is not implemented; LORA is") }
    // PEFT's default stands for a key that is missing; it computes nothing with null.
    for key in ["r", "lora_alpha"] where json[key] == .null { throw fail("\(key: key) is null, expected a number") }
    guard let rank = value("r").map({ $0.int }) ?? 8, (1...1 << 20).contains(rank) else {
      throw fail("\(key: "r") is \(quoted(json["r"]?.text() ?? "")), expected a whole number from 1")
    }
    guard let alpha = value("lora_alpha").map({ $0.double }) ?? 8, alpha.isFinite else {
      throw fail("\(key: "lora_alpha") is \(quoted(json["lora_alpha"]?.text() ?? "")), expected a number")
    }
    self.rank = rank
    self.alpha = alpha
    isRankStabilized = try flag("use_rslora")
    isDoRA = try flag("use_dora")
    hasFactorBias = try flag("lora_bias")
    _ = try flag("fan_in_fan_out")
    guard let bias = Bias(rawValue: value("bias").map { $0.string ?? "" } ?? "none") else {
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
    func patterns(_ key: String, _ range: ClosedRange<Double>, whole: Bool = false) throws -> [(ModulePattern, Double)] {
      guard let members = value(key)?.members else {
        if let other = value(key) { throw fail("\(key: key) is \(quoted(other.text())), expected an object") }
        return []
      }
      return try members.map { name, value in
        guard let number = value.double, range.contains(number), !whole || number == number.rounded() else {
          throw fail(
            "\(key: key): \(quoted(name)) is \(quoted(value.text())), expected a number from \(range.lowerBound) to \(range.upperBound)"
          )
        }
        do { return (try ModulePattern(name), number) } catch let error as NibbleError {
          throw fail("\(key: key): \(error.text)")
        }
      }
    }
    rankPattern = PatternTable(
      place: "\(path: place): \(key: "rank_pattern")", try patterns("rank_pattern", 1...1_048_576, whole: true))
    alphaPattern = PatternTable(
      place: "\(path: place): \(key: "alpha_pattern")", try patterns("alpha_pattern", 1e-30...1e30))
    for key in Self.variants {
      guard let found = value(key), found != .bool(false), found != .object([]), found != .array([]) else { continue }
      throw fail("\(key: key) = \(quoted(found.text())) is not implemented")
    }
    if let start = value("init_lora_weights")?.string, Self.changesBase.contains(where: { start.hasPrefix($0) }) {
      throw fail(
        "\(key: "init_lora_weights") = \(quoted(start)): such adapters fit only the base their training had changed; "
          + "save them converted to plain LoRA (PEFT: path_initial_model_for_weight_conversion)")
    }
    unknownKeys = (json.members ?? []).map(\.key).filter { !Self.known.contains($0) && !Self.variants.contains($0) }
  }

  /// Keys that make another method of it when set.
  private static let variants = [
    "layer_replication", "use_qalora", "target_parameters", "alora_invocation_tokens", "arrow_config", "velora_config",
    "monteclora_config", "kasa_config", "use_bdlora",
  ]
  private static let changesBase = ["pissa", "olora", "corda", "lora_ga", "loftq"]
  private static let known: Set<String> = [
    "peft_type", "task_type", "r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "bias",
    "base_model_name_or_path", "modules_to_save", "rank_pattern", "alpha_pattern", "init_lora_weights", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "inference_mode", "revision", "peft_version",
    "auto_mapping", "megatron_config", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "ensure_weight_tying", "runtime_config", "trainable_token_indices",
  ]

  /// Whether the adapter asks for tied parameters to stay tied, be PEFT able to or not.
  package var ensuresWeightTying: Bool { json["ensure_weight_tying"]?.bool ?? false }

  /// Whether a head that shares the embedding's weight shares what takes its place: PEFT leaves the head as it was otherwise, and keeps
  /// them together only under the names it knows.
  package var tiesReplacedEmbedding: Bool {
    ensuresWeightTying
      && modulesToSave.contains { name in ["embed_tokens", "lm_head"].contains { ModuleChoice.is(name, $0) } }
  }

  /// The rank the configuration gives module `path`: its first matching pattern's, or the common one.
  public func rank(of path: String) throws -> Int { try rankPattern.value(of: path).map { Int($0) } ?? rank }

  /// Module `path`'s alpha: its first matching pattern's, or the common one.
  public func alpha(of path: String) throws -> Double { try alphaPattern.value(of: path) ?? alpha }

  /// What module `path` multiplies its product of factors with.
  ///
  /// - Parameter rank: the module's rank
  public func scale(of path: String, rank: Int) throws -> Double {
    let alpha = try alpha(of: path)
    return isRankStabilized ? alpha / Double(rank).squareRoot() : alpha / Double(rank)
  }
}

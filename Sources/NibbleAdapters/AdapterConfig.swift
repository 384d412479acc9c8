import NibbleCore
import Synchronization

/// Values by pattern: the first pattern that is found decides. All questions together are answered in bounded time.
final class PatternTable: Sendable {
  private let place: String
  private let rows: [(pattern: Pattern, value: Double)]
  private let nanoseconds = Atomic<Int>(0)
  private static let limit = 5_000_000_000

  init(place: String, _ rows: [(pattern: Pattern, value: Double)]) {
    self.place = place
    self.rows = rows
  }

  /// - Throws: `.badInput` when the patterns have taken longer than any sensible ones would
  func value(of path: String) throws -> Double? {
    guard !rows.isEmpty else { return nil }
    let started = monotonicSeconds()
    defer { nanoseconds.wrappingAdd(Int((monotonicSeconds() - started) * 1e9), ordering: .relaxed) }
    for row in rows {
      let found: Bool
      do { found = try row.pattern.isFound(in: path) } catch let error as NibbleError {
        throw NibbleError.badInput("\(place): \(error.message)")
      }
      if found { return row.value }
      guard nanoseconds.load(ordering: .relaxed) + Int((monotonicSeconds() - started) * 1e9) < Self.limit else {
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
    func fail(_ reason: String) -> NibbleError { NibbleError.badInput("\(place): \(reason)") }
    func value(_ key: String) -> JSON? { json[key].flatMap { $0 == JSON.null ? nil : $0 } }
    func flag(_ key: String) throws -> Bool {
      guard let found = value(key) else { return false }
      guard let flag = found.bool else { throw fail("\(key) is \(quoted(found.text())), expected true or false") }
      return flag
    }
    guard json.members != nil else { throw fail("not a JSON object") }
    let kind = value("peft_type")?.string ?? ""
    guard kind == "LORA" else { throw fail("peft_type = \(quoted(kind)) is not implemented; LORA is") }
    guard let rank = value("r").map({ $0.int }) ?? 8, (1...1 << 20).contains(rank) else {
      throw fail("r is \(quoted(json["r"]?.text() ?? "")), expected a whole number from 1")
    }
    guard let alpha = value("lora_alpha").map({ $0.double }) ?? 8, alpha.isFinite else {
      throw fail("lora_alpha is \(quoted(json["lora_alpha"]?.text() ?? "")), expected a number")
    }
    self.rank = rank
    self.alpha = alpha
    isRankStabilized = try flag("use_rslora")
    isDoRA = try flag("use_dora")
    hasFactorBias = try flag("lora_bias")
    _ = try flag("fan_in_fan_out")
    guard let bias = Bias(rawValue: value("bias")?.string ?? "none") else {
      throw fail("bias = \(quoted(json["bias"]?.text() ?? "")) is not implemented; none, all and lora_only are")
    }
    self.bias = bias
    baseName = value("base_model_name_or_path")?.string
    taskType = value("task_type")?.string
    modulesToSave = value("modules_to_save")?.array?.compactMap(\.string) ?? []
    func tokens(_ list: JSON) throws -> [Int] {
      guard let ids = list.array?.map(\.int), ids.allSatisfy({ ($0 ?? -1) >= 0 }) else {
        throw fail("trainable_token_indices is \(quoted(list.text())), expected ids of tokens")
      }
      let found = ids.compactMap { $0 }
      guard Set(found).count == found.count else { throw fail("trainable_token_indices names a token twice") }
      return found
    }
    switch value("trainable_token_indices") {
    case .object(let members)?: tokenRows = try members.map { ($0.key, try tokens($0.value)) }
    case let list?: tokenRows = [(nil, try tokens(list))]
    case nil: tokenRows = []
    }
    func patterns(_ key: String, _ range: ClosedRange<Double>) throws -> [(Pattern, Double)] {
      guard let members = value(key)?.members else {
        if let other = value(key) { throw fail("\(key) is \(quoted(other.text())), expected an object") }
        return []
      }
      return try members.map { name, value in
        guard let number = value.double, range.contains(number) else {
          throw fail(
            "\(key): \(quoted(name)) is \(quoted(value.text())), expected a number from \(range.lowerBound) to \(range.upperBound)"
          )
        }
        do { return (try Pattern(ofFile: #"^(.*\.)?(\#(name))$"#, lineAnchors: false), number) } catch let error as NibbleError {
          throw fail("\(key): \(error.message)")
        }
      }
    }
    rankPattern = PatternTable(place: "\(place): rank_pattern", try patterns("rank_pattern", 1...1_048_576))
    alphaPattern = PatternTable(place: "\(place): alpha_pattern", try patterns("alpha_pattern", 1e-30...1e30))
    for key in Self.variants {
      guard let found = value(key), found != .bool(false), found != .object([]), found != .array([]) else { continue }
      throw fail("\(key) = \(quoted(found.text())) is not implemented")
    }
    if let start = value("init_lora_weights")?.string, Self.changesBase.contains(where: { start.hasPrefix($0) }) {
      throw fail(
        "init_lora_weights = \(quoted(start)): such adapters fit only the base their training had changed; "
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

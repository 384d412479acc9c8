import NibbleCore

/// How texts are cut into words before byte pairs are merged, by the name that `tokenizer.ggml.pre` has for it.
///
/// The rules are those of llama.cpp's `llama-vocab.cpp`, written as tokenizer.json of the models they come from has them. A name that is
/// not here is refused: a wrong rule makes other tokens, and nobody notices.
struct GgufPreTokenizer {
  private enum Step {
    /// Cuts out what matches.
    case split(String)
    /// Cuts out each digit.
    case digits
    /// GPT-2's rule.
    case gpt2
  }

  private let steps: [Step]
  /// Whether a word that is a token is one, whatever the merges would make of it.
  private(set) var ignoresMerges = false
  /// Whether texts begin with a special token where the file does not say.
  private(set) var addsBegin = false
  /// Whether pairs of texts have two special tokens between them.
  private(set) var addsSeparator = false
  /// Whether texts are brought into normal form C.
  private(set) var normalizes = false

  private init(_ steps: [Step]) { self.steps = steps }

  private init(_ steps: [Step], _ change: (inout GgufPreTokenizer) -> Void) {
    self.steps = steps
    change(&self)
  }

  init?(named name: String) {
    guard let known = Self.all[name] else { return nil }
    self = known
  }

  var json: JSON {
    var parts: [JSON] = steps.map { step in
      switch step {
      case .split(let pattern): ["type": "Split", "pattern": ["Regex": JSON(pattern)], "behavior": "Isolated", "invert": false]
      case .digits: ["type": "Digits", "individual_digits": true]
      case .gpt2: Self.bytes(usesPattern: true)
      }
    }
    if case .gpt2? = steps.last {} else { parts.append(Self.bytes(usesPattern: false)) }
    return parts.count == 1 ? parts[0] : ["type": "Sequence", "pretokenizers": .array(parts)]
  }

  private static func bytes(usesPattern: Bool) -> JSON {
    ["type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": .bool(usesPattern)]
  }

  // MARK: - Names

  private static let all: [String: GgufPreTokenizer] = {
    var all: [String: GgufPreTokenizer] = [:]
    func add(_ names: String, _ steps: [Step], _ change: (inout GgufPreTokenizer) -> Void = { _ in }) {
      for name in names.split(separator: " ") { all[String(name)] = GgufPreTokenizer(steps, change) }
    }
    add("gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum modern-bert exaone4 mpt olmo jais trillion granite-docling", [.gpt2])
    add("jina-v1-en jina-v2-code roberta-bpe", [.gpt2]) { $0.addsSeparator = true }
    add("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", [.digits, .gpt2])
    add("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", [.split(llama3)]) {
      ($0.ignoresMerges, $0.addsBegin) = (true, true)
    }
    add("dbrx smaug-bpe chatglm-bpe", [.split(llama3)])
    add("glm4 glm5", [.split(llama3)]) { $0.ignoresMerges = true }
    add("qwen2", [.split(qwen2)]) { $0.normalizes = true }
    add("deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", [.split(qwen2)])
    add("qwen35", [.split(qwen35)]) { $0.normalizes = true }
    add("tekken", [.split(tekken)]) { ($0.ignoresMerges, $0.addsBegin) = (true, true) }
    add("gpt-4o llama4 kanana2 talkie minimax-m2", [.split(gpt4o)])
    add("deepseek-v3 hunyuan-dense joyai-llm", [.split(#"\p{N}{1,3}"#), .split(cjk), .split(deepseek3)])
    add(
      "deepseek-coder",
      [.split("[\r\n]"), .split(#"\s?\p{L}+"#), .split(#"\s?\p{P}+"#), .split("[一-龥ࠀ-一가-퟿]+"), .digits])
    add("minicpm5", [.split(#"\p{N}{1,3}"#), .split(qwen2.replacing(#"\p{N}|"#, with: #"\p{N}+|"#))]) { $0.ignoresMerges = true }
    add("seed-coder", [.split(seedCoder)])
    add("bailingmoe bailingmoe2 llada-moe", [.split(bailing)])
    return all
  }()

  // MARK: - Rules

  private static let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
  private static let spaces = #"\s*[\r\n]+|\s+(?!\S)|\s+"#
  private static let llama3 = contractions + #"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"# + spaces
  private static let qwen2 = contractions + #"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"# + spaces
  private static let qwen35 = contractions + #"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"# + spaces
  private static let upper = #"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"#
  private static let lower = #"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"#
  private static let tekken =
    #"[^\r\n\p{L}\p{N}]?"# + upper + "*" + lower + #"+|[^\r\n\p{L}\p{N}]?"# + upper + "+" + lower + #"*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"# + spaces
  private static let gpt4o =
    #"[^\r\n\p{L}\p{N}]?"# + upper + "*" + lower + "+" + contractions + #"?|[^\r\n\p{L}\p{N}]?"# + upper + "+" + lower + "*" + contractions
    + #"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"# + spaces
  private static let cjk = "[一-龥぀-ゟ゠-ヿ]+"
  private static let deepseek3 =
    ##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"## + spaces
  private static let seedCoder = contractions + #"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|"# + spaces
  private static let bailing =
    #"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"#
}

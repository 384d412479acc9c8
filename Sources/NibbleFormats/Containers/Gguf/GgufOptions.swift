import NibbleCore
import NibbleQuant

/// How a model is written as GGUF.
public struct GgufOptions: Sendable {
  /// A type or a mix of types, by the name that llama.cpp has for it; nil for the types that tensors have.
  public var type: String?
  /// The first that is found in a tensor's name decides.
  public var rules: [GgufRule] = []
  /// The name of the pre-tokenizer, where the tokenizer is none that llama.cpp knows.
  public var preTokenizer: String?
  /// Whether codes of a packed model may be rounded to codes of another kind.
  public var requantizes = false

  /// How much each input of a matrix counts in the search for scales.
  public var importance: Importance?
  /// Whether codes will be chosen by what inputs are, so that mixes choose types as they do with an importance.
  public var isWeighed = false

  /// Every tensor in its own type.
  public init() {}

  /// Whether something was asked for.
  public var isGiven: Bool { type != nil || !rules.isEmpty || preTokenizer != nil || requantizes || importance != nil }

  /// Names of types and mixes.
  public static var typeNames: [String] { GgufMix.all.map(\.name) + ["mxfp4", auto] }

  /// A 16-bit type by that of the first matrix, as llama.cpp's converter chooses.
  static let auto = "auto"
}

/// "Tensors whose name this pattern is found in are of that type." Names are Hugging Face's or llama.cpp's.
public struct GgufRule: Sendable {
  let pattern: Pattern
  /// nil for the type that a tensor has.
  let type: GGMLType?
  /// As it was written.
  let text: String

  /// Reads `REGEX=TYPE`, split at the last `=` that a type follows.
  ///
  /// - Throws: `.usage`
  public init(_ text: String) throws {
    self.text = text
    for equals in text.indices.reversed() where text[equals] == "=" {
      let name = String(text[text.index(after: equals)...])
      let other = ["fp16": "f16", "fp32": "f32"][name.lowercased()] ?? name
      guard let type = GGMLType(name: other) else {
        guard name == "keep" else { continue }
        (pattern, self.type) = (try Pattern(String(text[..<equals])), nil)
        return
      }
      (pattern, self.type) = (try Pattern(String(text[..<equals])), type)
      return
    }
    throw NibbleError.usage(
      "rule \(subject: text) is not REGEX=TYPE with TYPE one of \(GGMLType.all.map(\.name).joined(separator: ", ")), keep")
  }

  /// A rule that keeps what `pattern` is found in.
  public init(keeping pattern: String) throws {
    self.pattern = try Pattern(pattern)
    (type, text) = (nil, pattern + "=keep")
  }
}

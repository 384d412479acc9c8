import NibbleCore
import NibbleQuant

/// What a tensor is to be coded with.
public enum CodecChoice: Hashable, Sendable {
  /// Packed.
  case codec(CodecKind)
  /// As it is.
  case keep
  /// Plain, in another type.
  case cast(DType)

  /// Packed to 4 bits with this table.
  public static func packed(_ code: BlockCodec.Code) -> CodecChoice { .codec(code.kind) }
  /// Signed bytes with a scale a row.
  public static let int8 = CodecChoice.codec(.int8)

  /// The names of the command line.
  public static var names: [(name: String, choice: CodecChoice)] {
    Codecs.packing.map { ($0.name, .codec($0)) }
      + [("keep", .keep), ("bf16", .cast(.bf16)), ("fp16", .cast(.f16)), ("fp32", .cast(.f32))]
  }

  /// Reads a name of the command line; `float16`, `bfloat16` and `float32` too.
  public init?(_ name: String) {
    let name = DType.shortName(name)
    guard let known = Self.names.first(where: { $0.name == name }) else { return nil }
    self = known.choice
  }

  /// The same, for what packs.
  ///
  /// - Throws: `.usage`
  public init(packing name: String) throws {
    guard let known = CodecChoice(name), case .codec = known else {
      throw NibbleError.usage(
        "\(.codec, quoted(name)) is none of \(Codecs.packing.map(\.name).joined(separator: ", "))")
    }
    self = known
  }

  /// The name on the command line.
  public var name: String { Self.names.first { $0.choice == self }?.name ?? "" }
}

/// "Tensors whose name this pattern is found in are coded like that."
public struct PackingRule: Sendable {
  /// What is looked for in names.
  public let pattern: Pattern
  /// What tensors found are coded with.
  public let choice: CodecChoice
  /// Elements of a block, where the rule says.
  public let blockSize: Int?
  /// Elements of a group, where the rule says; 0 for a row.
  public let groupSize: Int?
  /// As it was written.
  public let text: String

  /// Reads `REGEX=CODEC[:block=N|:group=N]`, split at the last `=` that a codec follows.
  ///
  /// - Throws: `.usage`
  public init(_ text: String) throws {
    self.text = text
    for equals in text.indices.reversed() where text[equals] == "=" {
      let parts = text[text.index(after: equals)...].split(separator: ":", omittingEmptySubsequences: false)
      guard let name = parts.first, let choice = CodecChoice(String(name)) else { continue }
      var blockSize: Int?
      var groupSize: Int?
      for part in parts.dropFirst() {
        if part.hasPrefix("group="), let size = Int4Groups.size(String(part.dropFirst(6))) {
          groupSize = size
        } else if part.hasPrefix("block="), let size = Int(part.dropFirst(6)), BlockCodec.blockSizes.contains(size) {
          blockSize = size
        } else {
          throw NibbleError.usage(
            "rule \(subject: text): ':\(part)' is not ':block=N' with N one of \(BlockCodec.blockSizes), or ':group=N' with N one of "
              + "\(Int4Groups.sizes) or row")
        }
      }
      var (hasBlocks, hasGroups) = (false, false)
      if case .codec(let kind) = choice { (hasBlocks, hasGroups) = (kind.hasBlocks, kind.hasGroups) }
      if blockSize != nil, !hasBlocks { throw NibbleError.usage("rule \(subject: text): \(choice.name) has no block size") }
      if groupSize != nil, !hasGroups { throw NibbleError.usage("rule \(subject: text): \(choice.name) has no group size") }
      self.choice = choice
      (self.blockSize, self.groupSize) = (blockSize, groupSize)
      pattern = try Pattern(String(text[..<equals]))
      return
    }
    throw NibbleError.usage(
      "rule \(subject: text) is not REGEX=CODEC[:block=N|:group=N] with CODEC one of "
        + "\(CodecChoice.names.map(\.name).joined(separator: ", "))")
  }

  /// A rule that keeps what `pattern` is found in.
  public init(keeping pattern: String) throws {
    self.pattern = try Pattern(pattern)
    choice = .keep
    (blockSize, groupSize) = (nil, nil)
    text = pattern + "=keep"
  }
}

/// Why a tensor is coded as it is.
public enum PackingReason: String, Sendable {
  case rule = "by your rule"
  case family = "linear layer of a known architecture"
  case convolution = "convolution of a known architecture"
  case shape = "2-D weight of an unknown architecture"
  case keptByFamily = "no linear layer of this architecture"
  case otherPart = "of a part that takes pictures, which programs that read groups have whole"
  case embeddingOrHead = "embedding or output head by its name"
  case notReplaced = "layer that transformers does not load packed"
  case notTwoDimensional = "not a 2-D weight"
  case stacked = "3-D weight (experts?)"
  case notFloat = "not a float type"
  case alreadyPacked = "packed already"
  case empty = "no elements"
}

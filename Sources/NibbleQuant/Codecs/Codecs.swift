import NibbleCore

/// The codecs there are. A static list: what is not on it is refused by its number or name.
public enum Codecs {
  /// Every codec this program knows.
  public static var all: [CodecKind] { known + added }

  private static let known: [CodecKind] =
    [.plain] + BlockCodec.Code.all.map(\.kind) + [.int8, .int4, .nf4Offsets, .nf4Tiles, .mxfp4, .fp8]
    + GGMLType.all.filter { $0.dtype == nil }.map(\.kind)

  /// For tests of the seam: codecs that exist for the length of a call.
  @TaskLocal package static var added: [CodecKind] = []

  /// Those that make tensors smaller: what `--codec` takes.
  public static var packing: [CodecKind] { all.filter { !$0.isPlain && $0.askedAs == nil && !$0.isForeign } }

  /// The codec of a number in a `.nbl` table; nil for numbers nobody has there.
  package static func numbered(_ number: Int) -> CodecKind? { all.first { $0.number == number && !$0.isForeign } }
}

/// What is known of a codec before there is a tensor: its place in files and on the command line, and how to make one.
public struct CodecKind: Hashable, Sendable {
  /// The number in `.nbl` tables and identities; never given to another.
  public let number: UInt16
  /// The name in reports and, for most, on the command line.
  public let name: String
  /// The codec that is asked for by name where an encoder makes it this one; nil for codecs that are asked for themselves.
  public let askedAs: String?
  /// Whether elements are stored as they are.
  public let isPlain: Bool
  /// Whether GGUF files alone hold it: its number is for identities, and `--gguf-type` asks for it.
  public let isOfGguf: Bool
  /// Whether no container that is written holds it: only checkpoints of other programs do, and its number is for identities.
  public let isReadOnly: Bool
  /// Whether block files and folders never hold it: where it has no place, its tensors are decoded.
  public var isForeign: Bool { isOfGguf || isReadOnly }
  /// Whether elements share scales in blocks whose size can be chosen.
  public let hasBlocks: Bool
  /// Whether elements share scales in groups along the inputs, whose size can be chosen.
  public let hasGroups: Bool
  /// Whether scales can be searched for.
  public var searchesScales: Bool { (hasBlocks || hasGroups) && !hasOffsets }
  /// Whether blocks have offsets, which are searched for.
  public let hasOffsets: Bool
  /// Whether blocks are tiles of a matrix, whose size can be chosen.
  public let hasTiles: Bool
  /// The codec with these settings.
  package let make: @Sendable (CodecSettings) -> any WeightCodec
  /// The codec that a table's parameters describe; nil where they make no sense.
  package let read: @Sendable (inout CodecParameters) throws -> (any WeightCodec)?

  package init(
    number: UInt16, name: String, askedAs: String? = nil, isPlain: Bool = false, isOfGguf: Bool = false, isReadOnly: Bool = false, hasBlocks: Bool = false,
    hasGroups: Bool = false, hasOffsets: Bool = false, hasTiles: Bool = false,
    make: @escaping @Sendable (CodecSettings) -> any WeightCodec,
    read: @escaping @Sendable (inout CodecParameters) throws -> (any WeightCodec)?
  ) {
    (self.number, self.name, self.askedAs, self.isPlain) = (number, name, askedAs, isPlain)
    (self.hasBlocks, self.hasGroups, self.hasOffsets) = (hasBlocks, hasGroups, hasOffsets)
    (self.isOfGguf, self.isReadOnly, self.hasTiles, self.make, self.read) = (isOfGguf, isReadOnly, hasTiles, make, read)
  }

  public static func == (a: CodecKind, b: CodecKind) -> Bool { a.number == b.number }
  public func hash(into hasher: inout Hasher) { hasher.combine(number) }
}

/// What the command line says of codecs.
public struct CodecSettings: Sendable {
  /// Elements that share a scale.
  public var blockSize = 64
  /// Whether scales are coded too.
  public var doubleQuant = true
  /// Whether blocks have offsets, where there is such a codec.
  public var offsets = false
  /// Rows and columns of a tile.
  public var tile = (rows: 8, columns: 4)
  /// Elements of a group of whole numbers; 0 for a row.
  public var groupSize = 64
  /// The type of scales of groups.
  public var scale = DType.f16
  /// How zeros of groups are stored.
  public var zeros = Int4Groups.Zero.half

  /// Blocks of 64, double quantization; groups of 64 with zeros in float16.
  public init(blockSize: Int = 64, doubleQuant: Bool = true) { (self.blockSize, self.doubleQuant) = (blockSize, doubleQuant) }
}

/// A codec's parameters in a `.nbl` table: fields, and what they refer to.
package struct CodecParameters {
  package var out = ByteWriter()
  package var input: ByteReader
  /// The codebooks of the table, by number.
  package let codebooks: [Codebook]
  /// The type that a bitsandbytes file declares the codes with.
  package var storage: DType

  /// The number that stands for no codebook.
  package static let noCodebook = 0xFFFF

  package init(_ input: ByteReader = ByteReader([], place: ""), codebooks: [Codebook], storage: DType = .u8) {
    (self.input, self.codebooks, self.storage) = (input, codebooks, storage)
  }

  package func number(of codebook: Codebook?) -> Int {
    codebook.flatMap { codebooks.firstIndex(of: $0) } ?? Self.noCodebook
  }

  /// The codebook of a number; nil unless it is there and has `count` values.
  package func codebook(_ number: Int, values count: Int) -> Codebook? {
    number < codebooks.count && codebooks[number].bits.count == count ? codebooks[number] : nil
  }
}

/// A codec of any kind, as a value that compares: how a tensor's elements are stored.
public struct WeightEncoding: Hashable, Sendable {
  /// The codec.
  package let codec: any WeightCodec

  /// Elements stored by `codec`.
  package init(_ codec: any WeightCodec) { self.codec = codec }

  /// The codec's line in the list of codecs.
  public var kind: CodecKind { codec.kind }
  /// "plain", "nf4", "fp4", "int8".
  public var name: String { kind.name }
  /// One line for people: "nf4, block 64, double quantized".
  public var summary: String { codec.summary }
  /// The codec's parameters by name.
  public var description: [(key: String, value: JSON)] { codec.description }
  /// One parameter by its name; nil where the codec has none.
  public func parameter(_ name: String) -> JSON? { description.first { $0.key == name }?.value }
  /// Whether elements are stored as they are.
  public var isPlain: Bool { kind.isPlain }

  /// Whether elements are codes.
  public var isPacked: Bool { !isPlain }

  /// Bytes of all sections of a tensor.
  public func storedBytes(_ dtype: DType, _ shape: [Int]) -> Int {
    codec.sections(dtype, shape).reduce(0) { $0 + $1.length }
  }

  public static func == (a: WeightEncoding, b: WeightEncoding) -> Bool { AnyHashable(a.codec) == AnyHashable(b.codec) }
  public func hash(into hasher: inout Hasher) { hasher.combine(AnyHashable(codec)) }
}

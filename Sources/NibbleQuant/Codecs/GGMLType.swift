import NibbleCore

/// A type of ggml's: how GGUF files store the numbers of a tensor. Rows are whole blocks.
public struct GGMLType: Sendable {
  /// The number in GGUF files (`enum ggml_type`).
  public let number: Int
  /// The name on the command line and in reports: "q4_k".
  public let name: String
  /// Numbers of a block; 1 for plain types.
  public let blockElements: Int
  /// Bytes of a block.
  public let blockBytes: Int
  /// The type of its numbers where it is plain; nil for blocks.
  public let dtype: DType?

  private init(_ number: Int, _ name: String, _ blockElements: Int, _ blockBytes: Int, _ dtype: DType? = nil) {
    (self.number, self.name, self.blockElements, self.blockBytes, self.dtype) = (number, name, blockElements, blockBytes, dtype)
  }

  public static let f32 = GGMLType(0, "f32", 1, 4, .f32)
  public static let f16 = GGMLType(1, "f16", 1, 2, .f16)
  public static let q4_0 = GGMLType(2, "q4_0", 32, 18)
  public static let q4_1 = GGMLType(3, "q4_1", 32, 20)
  public static let q5_0 = GGMLType(6, "q5_0", 32, 22)
  public static let q5_1 = GGMLType(7, "q5_1", 32, 24)
  public static let q8_0 = GGMLType(8, "q8_0", 32, 34)
  public static let q2_k = GGMLType(10, "q2_k", 256, 84)
  public static let q3_k = GGMLType(11, "q3_k", 256, 110)
  public static let q4_k = GGMLType(12, "q4_k", 256, 144)
  public static let q5_k = GGMLType(13, "q5_k", 256, 176)
  public static let q6_k = GGMLType(14, "q6_k", 256, 210)
  public static let iq4_nl = GGMLType(20, "iq4_nl", 32, 18)
  public static let iq4_xs = GGMLType(23, "iq4_xs", 256, 136)
  public static let bf16 = GGMLType(30, "bf16", 1, 2, .bf16)
  public static let mxfp4 = GGMLType(39, "mxfp4", 32, 17)

  /// Every type this program knows.
  public static let all: [GGMLType] = [
    .f32, .f16, .bf16, .q8_0, .q6_k, .q5_k, .q5_1, .q5_0, .q4_k, .q4_1, .q4_0, .iq4_nl, .iq4_xs, .mxfp4, .q3_k, .q2_k,
  ]

  /// The type of a number in a file; nil for others.
  public init?(number: Int) {
    guard let known = Self.all.first(where: { $0.number == number }) else { return nil }
    self = known
  }

  /// The type of a name in any case; nil for others.
  public init?(name: String) {
    let lower = name.lowercased()
    guard let known = Self.all.first(where: { $0.name == lower }) else { return nil }
    self = known
  }

  /// The plain type of these elements; nil where ggml has none.
  public init?(_ dtype: DType) {
    guard let known = Self.all.first(where: { $0.dtype == dtype }) else { return nil }
    self = known
  }

  /// How a tensor of this type is stored: plain, or as blocks.
  public var encoding: WeightEncoding { dtype == nil ? WeightEncoding(GGMLBlocks(self)) : .plain }

  /// The type of the elements, as tensors say it: blocks decode to float32.
  public var elementType: DType { dtype ?? .f32 }

  /// Bytes of a tensor with this shape, rows first; nil for shapes that cannot be.
  public func byteCount(_ shape: [Int]) -> Int? {
    guard let columns = shape.last, columns % blockElements == 0, let count = elementCount(of: shape) else { return nil }
    let (bytes, overflow) = (count / blockElements).multipliedReportingOverflow(by: blockBytes)
    return overflow ? nil : bytes
  }
}

extension GGMLType: Hashable {
  public static func == (a: GGMLType, b: GGMLType) -> Bool { a.number == b.number }
  public func hash(into hasher: inout Hasher) { hasher.combine(number) }
}

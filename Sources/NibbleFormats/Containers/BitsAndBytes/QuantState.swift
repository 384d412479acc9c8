import NibbleCore
import NibbleQuant

/// The JSON text with which bitsandbytes describes a packed tensor.
struct QuantState: Equatable {
  var code: BlockCodec.Code
  var blockSize: Int
  var dtype: DType
  var shape: [Int]
  var nested: Nested?

  struct Nested: Equatable {
    var blockSize: Int
    var offset: Float
  }

  static let suffix = ".quant_state.bitsandbytes__"
  static let dtypes: [(name: String, dtype: DType)] = [("float32", .f32), ("float16", .f16), ("bfloat16", .bf16)]

  init(code: BlockCodec.Code, blockSize: Int, dtype: DType, shape: [Int], nested: Nested?) {
    self.code = code
    self.blockSize = blockSize
    self.dtype = dtype
    self.shape = shape
    self.nested = nested
  }

  /// Reads the text; any order of keys, none unknown.
  ///
  /// - Throws: the reason alone, for the caller to name file and tensor.
  init(text: [UInt8]) throws(JSONError) {
    let json = try JSON.parse(text)
    func fail(_ reason: String) -> JSONError { JSONError(offset: 0, reason: reason) }
    guard let members = json.members else { throw fail("not an object") }
    let known = ["quant_type", "blocksize", "dtype", "shape", "nested_blocksize", "nested_dtype", "nested_offset"]
    if let stranger = members.first(where: { !known.contains($0.key) }) {
      throw fail("unknown key \(quoted(stranger.key))")
    }
    guard let code = json["quant_type"]?.string.flatMap(BlockCodec.Code.init(name:)) else {
      throw fail("quant_type is neither nf4 nor fp4")
    }
    guard let blockSize = json["blocksize"]?.int, BlockCodec.blockSizes.contains(blockSize) else {
      throw fail("blocksize is not one of \(BlockCodec.blockSizes)")
    }
    guard let name = json["dtype"]?.string, let dtype = Self.dtypes.first(where: { $0.name == name })?.dtype else {
      throw fail("dtype is not float32, float16 or bfloat16")
    }
    guard let dimensions = json["shape"]?.array else { throw fail("shape is missing") }
    let shape = dimensions.compactMap(\.int)
    guard shape.count == dimensions.count, elementCount(of: shape) != nil else { throw fail("shape makes no size") }
    self.init(code: code, blockSize: blockSize, dtype: dtype, shape: shape, nested: nil)
    if json["nested_blocksize"] != nil || json["nested_offset"] != nil {
      guard let nestedSize = json["nested_blocksize"]?.int, (1...1 << 20).contains(nestedSize) else {
        throw fail("nested_blocksize is not a block size")
      }
      guard json["nested_dtype"]?.string ?? "float32" == "float32" else { throw fail("nested_dtype is not float32") }
      guard let offset = json["nested_offset"]?.double, Float(offset).isFinite else {
        throw fail("nested_offset is no float32")
      }
      nested = Nested(blockSize: nestedSize, offset: Float(offset))
    }
  }

  /// The text as bitsandbytes writes it.
  var text: [UInt8] {
    let name = Self.dtypes.first { $0.dtype == dtype }?.name ?? "float32"
    var members: [(key: String, value: JSON)] = [
      ("quant_type", JSON(code.name)), ("blocksize", JSON(blockSize)), ("dtype", JSON(name)),
      ("shape", JSON(shape)),
    ]
    if let nested {
      members += [
        ("nested_blocksize", JSON(nested.blockSize)), ("nested_dtype", "float32"),
        ("nested_offset", JSON(Double(nested.offset))),
      ]
    }
    return Array(JSON.object(members).text(.python).utf8)
  }

  /// Whether the text says of a tensor what its codec, dtype and shape say; the offset is the caller's to compare.
  func describes(_ codec: BlockCodec, _ dtype: DType, _ shape: [Int]) -> Bool {
    code == codec.code && blockSize == codec.blockSize && self.dtype == dtype && self.shape == shape
      && nested?.blockSize == codec.nested?.blockSize
  }

  /// No text of a tensor of `shape` is longer than this.
  static func longestText(shape: [Int], nested: Bool) -> Int {
    // Dimensions stand between brackets, divided by a comma and a space; the rest is always as long.
    let digits = shape.reduce(0) { $0 + String($1).utf8.count }
    return (nested ? longestNestedFrame : longestFrame) + digits + 2 * max(0, shape.count - 1)
  }

  private static let longestFrame = QuantState(code: .nf4, blockSize: 4096, dtype: .bf16, shape: [], nested: nil).text.count
  private static let longestNestedFrame = QuantState(
    code: .nf4, blockSize: 4096, dtype: .bf16, shape: [], nested: Nested(blockSize: 1 << 20, offset: 0)
  ).text.count + 24
}

/// The element types of the safetensors format.
public enum DType: String, Sendable, CaseIterable {
  case bool = "BOOL"
  case f4 = "F4"
  case f6e2m3 = "F6_E2M3"
  case f6e3m2 = "F6_E3M2"
  case u8 = "U8"
  case i8 = "I8"
  case f8e5m2 = "F8_E5M2"
  case f8e4m3 = "F8_E4M3"
  case f8e8m0 = "F8_E8M0"
  case i16 = "I16"
  case u16 = "U16"
  case f16 = "F16"
  case bf16 = "BF16"
  case i32 = "I32"
  case u32 = "U32"
  case f32 = "F32"
  case c64 = "C64"
  case f64 = "F64"
  case i64 = "I64"
  case u64 = "U64"
  case f8e4m3fnuz = "F8_E4M3FNUZ"
  case f8e5m2fnuz = "F8_E5M2FNUZ"

  /// The name the command line has for a float type that PyTorch calls otherwise: `bfloat16` is `bf16`.
  package static func shortName(_ name: String) -> String {
    ["float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float32": "fp32"][name] ?? name
  }

  /// Bits an element takes.
  public var bitWidth: Int {
    switch self {
    case .f4: 4
    case .f6e2m3, .f6e3m2: 6
    case .bool, .u8, .i8, .f8e5m2, .f8e4m3, .f8e8m0, .f8e4m3fnuz, .f8e5m2fnuz: 8
    case .i16, .u16, .f16, .bf16: 16
    case .i32, .u32, .f32: 32
    case .c64, .f64, .i64, .u64: 64
    }
  }

  /// Whether this is one of the types weights are trained and stored in, which can be packed and cast.
  public var isFloat: Bool {
    switch self {
    case .f16, .bf16, .f32, .f64: true
    default: false
    }
  }

  /// The number of this type in `.nbl` tables and identities; never given to another.
  package var tableCode: UInt8 {
    switch self {
    case .bool: 0
    case .f4: 1
    case .f6e2m3: 2
    case .f6e3m2: 3
    case .u8: 4
    case .i8: 5
    case .f8e5m2: 6
    case .f8e4m3: 7
    case .f8e8m0: 8
    case .i16: 9
    case .u16: 10
    case .f16: 11
    case .bf16: 12
    case .i32: 13
    case .u32: 14
    case .f32: 15
    case .c64: 16
    case .f64: 17
    case .i64: 18
    case .u64: 19
    case .f8e4m3fnuz: 20
    case .f8e5m2fnuz: 21
    }
  }

  package init?(tableCode: UInt8) {
    guard let known = Self.allCases.first(where: { $0.tableCode == tableCode }) else { return nil }
    self = known
  }

  /// Bytes that `count` elements take.
  ///
  /// - Returns: nil if the product overflows or a sub-byte type does not end on a byte.
  public func byteCount(of count: Int) -> Int? {
    let (bits, overflow) = count.multipliedReportingOverflow(by: bitWidth)
    guard !overflow, bits >= 0, bits % 8 == 0 else { return nil }
    return bits / 8
  }
}

/// The number of elements of `shape`, the one place where dimensions read from files are multiplied.
///
/// - Returns: nil on a negative dimension or when the product of those that are not zero leaves `Int`, so that the
///   order of dimensions does not matter
package func elementCount(of shape: [Int]) -> Int? {
  var count = 1
  for dimension in shape where dimension != 0 {
    guard dimension > 0 else { return nil }
    let (product, overflow) = count.multipliedReportingOverflow(by: dimension)
    guard !overflow else { return nil }
    count = product
  }
  return shape.contains(0) ? 0 : count
}

/// `count / size`, rounded up. Both positive or zero, `size` not zero.
package func ceilDivide(_ count: Int, _ size: Int) -> Int {
  count / size + (count % size == 0 ? 0 : 1)
}

/// `offset` rounded up to a multiple of `alignment`, or nil on overflow.
package func aligned(_ offset: Int, to alignment: Int) -> Int? {
  let (sum, overflow) = offset.addingReportingOverflow(alignment - 1)
  return overflow ? nil : sum / alignment * alignment
}

/// The least number that both divide; both positive.
package func leastCommonMultiple(_ a: Int, _ b: Int) -> Int {
  var (x, y) = (a, b)
  while y != 0 { (x, y) = (y, x % y) }
  return a / x * b
}

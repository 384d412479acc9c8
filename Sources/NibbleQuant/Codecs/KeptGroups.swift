import NibbleCore

/// Groups of 4-bit whole numbers as blocks of ggml's q4_0 or q4_1 whose numbers are the same to the bit.
///
/// Both have σ · (q − 8), or σ · q + m, in blocks of 32 with float16 scales. So a group's codes move as they are where its scale, and the
/// number that its code of 0 stands for, are float16.
struct KeptGroups: Sendable {
  /// Elements of a group, a multiple of 32.
  private let length: Int
  private let scales: [Float]
  /// What a code of 0 stands for; empty for q4_0.
  private let offsets: [Float]

  /// nil where some number would not stay what it is.
  init?(_ source: Int4Decoder, _ type: GGMLType, count: Int) {
    guard type == .q4_0 || type == .q4_1, source.length % 32 == 0 else { return nil }
    length = source.length
    let groups = count / length, values = source.groups
    scales = Array(UnsafeBufferPointer(start: values.scales, count: groups))
    var offsets: [Float] = []
    for group in 0..<groups {
      let scale = scales[group], zero = values.zeros?[group] ?? (values.areOffsets ? 0 : Int4Groups.middle)
      guard Self.isHalf(scale) else { return nil }
      if type == .q4_0 {
        guard !values.areOffsets, zero == Int4Groups.middle || scale == 0 else { return nil }
        continue
      }
      let offset = values.areOffsets ? zero : -(scale * zero)
      guard Self.isHalf(offset) || scale.isNaN else { return nil }
      let isSame = values.areOffsets || scale.isNaN || (0..<16).allSatisfy { scale * Float($0) + offset == scale * (Float($0) - zero) }
      guard isSame else { return nil }
      offsets.append(offset)
    }
    self.offsets = offsets
  }

  private static func isHalf(_ value: Float) -> Bool { value.isNaN || Float(half(value)) == value }
  private static func half(_ value: Float) -> Half { Half(value) }

  /// Writes the blocks of some elements, which begin a block.
  func encode(_ x: UnsafePointer<Float>, start: Int, count: Int, _ blocks: UnsafeMutableRawPointer) {
    let bytes = offsets.isEmpty ? 18 : 20
    for block in 0..<count / 32 {
      let group = (start + 32 * block) / length, from = x + 32 * block, to = blocks + bytes * block
      let scale = scales[group], offset = offsets.isEmpty ? scale * -Int4Groups.middle : offsets[group]
      to.storeBytes(of: Half(scale).bits, as: UInt16.self)
      if !offsets.isEmpty { (to + 2).storeBytes(of: Half(offset).bits, as: UInt16.self) }
      func code(_ value: Float) -> UInt8 {
        let place = ((value - offset) / scale).rounded(.toNearestOrEven)
        return place > 0 ? UInt8(min(place, 15)) : 0
      }
      for index in 0..<16 {
        (to + bytes - 16 + index).storeBytes(of: code(from[index]) | code(from[index + 16]) << 4, as: UInt8.self)
      }
    }
  }
}

/// The bits of a float16.
private struct Half {
  let bits: UInt16

  /// The nearest.
  init(_ value: Float) {
    var value = value
    var bits: UInt16 = 0
    Kernels.narrow(.f16, &value, count: 1, &bits)
    self.bits = bits
  }
}

extension Float {
  fileprivate init(_ half: Half) {
    var bits = half.bits
    var value: Float = 0
    Kernels.widen(.f16, &bits, count: 1, &value)
    self = value
  }
}

extension Int4Groups {
  /// The type of ggml's blocks that can hold such groups as they are; nil where none can.
  public var ggmlType: GGMLType? { size % 32 == 0 ? zero == .none ? .q4_0 : .q4_1 : nil }

  /// Why groups would not come out of ggml's blocks of a type with the same numbers; nil where they do.
  ///
  /// - Parameter sections: the plain bytes of the sections behind the codes
  package func refusal(_ type: GGMLType, _ shape: [Int], _ sections: [[UInt8]]) -> String? {
    guard let own = ggmlType else { return "groups of \(size) are not made of blocks of 32" }
    guard type == own || type == .q4_1 else { return "they are held by \(own.name)" }
    guard length(columns: shape.last ?? 0) % 32 == 0 else { return "rows of \(shape.last ?? 0) are no multiple of 32" }
    let memory = Scratch()
    return withExtendedLifetime(memory) {
      let source = Int4Decoder(length: length(columns: shape.last ?? 0), values(of: sections, memory))
      return KeptGroups(source, type, count: elementCount(of: shape) ?? 0) == nil
        ? "a scale, or what a code of 0 stands for, is no float16" : nil
    }
  }
}

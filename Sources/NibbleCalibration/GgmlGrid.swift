import NibbleCore
import NibbleQuant

/// Scales and minima of the groups of 32 in ggml's blocks with 16 levels: σ · level, less a minimum where the type has one.
///
/// In blocks of 256 they are whole multiples of what the block stores as float16, which stays as the search left it.
final class GgmlGrid: BlockGrid, @unchecked Sendable {
  let shape = BlockShape(columns: GgmlGrid.group)
  let areOffsets = true
  let scales: UnsafeMutableBufferPointer<Float>
  let zeros: UnsafeMutableBufferPointer<Float>?
  private let form: Form
  /// What scales and minima are multiples of, one a block; nil where they are numbers of their own.
  private let units: [(scale: Float, minimum: Float)]?

  static let group = 32

  /// What tells the types apart.
  struct Form {
    let levels: [Float]
    let hasMinima: Bool
    /// Whole numbers that scales are of the block's, with those of minima from 0 to the last; nil where there is a scale a block.
    let multiples: ClosedRange<Float>?

    /// nil for types of other numbers of levels.
    init?(_ type: GGMLType) {
      switch type {
      case .q4_0: (levels, hasMinima, multiples) = ((0..<16).map { Float($0 - 8) }, false, nil)
      case .q4_1: (levels, hasMinima, multiples) = ((0..<16).map(Float.init), true, nil)
      case .q4_k: (levels, hasMinima, multiples) = ((0..<16).map(Float.init), true, 0...63)
      case .iq4_nl: (levels, hasMinima, multiples) = (Self.iq4, false, nil)
      case .iq4_xs: (levels, hasMinima, multiples) = (Self.iq4, false, -32...31)
      default: return nil
      }
    }

    private static let iq4: [Float] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
  }

  /// The scales that blocks have.
  init(_ form: Form, _ blocks: [UInt8], _ type: GGMLType) {
    self.form = form
    let count = blocks.count / type.blockBytes
    let groups = type.blockElements / Self.group
    func floats() -> UnsafeMutableBufferPointer<Float> {
      let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: count * groups)
      buffer.initialize(repeating: 0)
      return buffer
    }
    (scales, zeros) = (floats(), form.hasMinima ? floats() : nil)
    var units: [(scale: Float, minimum: Float)] = []
    for block in 0..<count {
      let at = block * type.blockBytes
      let own = blocks[at..<at + type.blockBytes]
      let unit = (scale: Self.half(own, 0), minimum: form.hasMinima ? Self.half(own, 1) : 0)
      guard form.multiples != nil else {
        scales[block] = unit.scale
        zeros?[block] = unit.minimum
        continue
      }
      units.append(unit)
      for group in 0..<groups {
        let (scale, minimum) = form.hasMinima ? Self.sixBits(own, group) : (Self.signed(own, group), 0)
        scales[block * groups + group] = unit.scale * Float(scale)
        zeros?[block * groups + group] = -unit.minimum * Float(minimum)
      }
    }
    self.units = form.multiples == nil ? nil : units
  }

  private init(copying other: GgmlGrid) {
    (form, units) = (other.form, other.units)
    func copy(_ from: UnsafeMutableBufferPointer<Float>) -> UnsafeMutableBufferPointer<Float> {
      let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: from.count)
      _ = buffer.initialize(fromContentsOf: from)
      return buffer
    }
    (scales, zeros) = (copy(other.scales), other.zeros.map(copy))
  }

  deinit {
    scales.deallocate()
    zeros?.deallocate()
  }

  func copy() -> any BlockGrid { GgmlGrid(copying: self) }

  func nearest(_ wanted: Float, block: Int) -> (code: UInt8, value: Float) {
    guard let units, let multiples = form.multiples else { return (0, Self.throughHalf(wanted)) }
    return (0, Self.multiple(wanted, of: units[block / Self.together].scale, multiples))
  }

  func nearest(zero wanted: Float, block: Int) -> Float? {
    guard form.hasMinima else { return nil }
    guard let units, let multiples = form.multiples else { return Self.throughHalf(wanted) }
    return -Self.multiple(-wanted, of: units[block / Self.together].minimum, multiples)
  }

  func set(_ block: Int, _ scale: (code: UInt8, value: Float)) { scales[block] = scale.value }

  /// Nothing lies behind the codes: `blocks` holds all.
  var sections: [[UInt8]] { [] }

  /// Groups of a block of 256.
  private static let together = 8

  /// 0 where there is none that is a number, as in a block whose weights are NaN or beyond float16.
  private static func multiple(_ wanted: Float, of unit: Float, _ range: ClosedRange<Float>) -> Float {
    let whole = (wanted / unit).rounded(.toNearestOrEven)
    let nearest = whole.isNaN ? 0 : unit * min(max(whole, range.lowerBound), range.upperBound)
    return nearest.isFinite ? nearest : 0
  }

  private static func throughHalf(_ value: Float) -> Float {
    let wide = float(half(value))
    return wide.isFinite ? wide : 0
  }
}

// MARK: - Bytes

extension GgmlGrid {
  private static func number(_ block: ArraySlice<UInt8>, _ place: Int) -> UInt16 {
    UInt16(block[block.startIndex + 2 * place]) | UInt16(block[block.startIndex + 2 * place + 1]) << 8
  }

  private static func half(_ block: ArraySlice<UInt8>, _ place: Int) -> Float { float(number(block, place)) }

  private static func half(_ value: Float) -> UInt16 {
    var (value, half) = (value, UInt16(0))
    Kernels.narrow(.f16, &value, count: 1, &half)
    return half
  }

  private static func float(_ half: UInt16) -> Float {
    var (half, value) = (half, Float(0))
    Kernels.widen(.f16, &half, count: 1, &value)
    return value
  }

  /// Scale and minimum of a group of q4_k.
  private static func sixBits(_ block: ArraySlice<UInt8>, _ group: Int) -> (Int, Int) {
    let packed = block.dropFirst(4), at = packed.startIndex
    guard group >= 4 else { return (Int(packed[at + group] & 63), Int(packed[at + group + 4] & 63)) }
    return (
      Int(packed[at + group + 4] & 15 | (packed[at + group - 4] >> 6) << 4), Int(packed[at + group + 4] >> 4 | (packed[at + group] >> 6) << 4)
    )
  }

  /// The scale of a group of iq4_xs.
  private static func signed(_ block: ArraySlice<UInt8>, _ group: Int) -> Int {
    let low = block[block.startIndex + 4 + group / 2] >> UInt8(4 * (group % 2)) & 15
    return (Int(low) | Int(number(block, 1) >> UInt16(2 * group) & 3) << 4) - 32
  }

  /// The blocks with these codes, an element each.
  func blocks(_ codes: UnsafeMutableBufferPointer<UInt8>, _ type: GGMLType) -> [UInt8] {
    let count = codes.count / type.blockElements, groups = type.blockElements / Self.group
    var out = [UInt8](repeating: 0, count: count * type.blockBytes)
    for block in 0..<count {
      var at = block * type.blockBytes
      let own = units?[block] ?? (scale: scales[block], minimum: zeros?[block] ?? 0)
      let stored: [Float] = form.hasMinima ? [own.scale, own.minimum] : [own.scale]
      for place in stored.indices {
        let bits = Self.half(stored[place])
        out[at + 2 * place] = UInt8(truncatingIfNeeded: bits)
        out[at + 2 * place + 1] = UInt8(truncatingIfNeeded: bits >> 8)
      }
      if let units { store(block, units[block], &out, at) }
      at += type.blockBytes - type.blockElements / 2
      // Two codes a byte: those of two groups of q4_k, elsewhere of the halves of one.
      let apart = form.hasMinima && units != nil ? 32 : 16
      for run in stride(from: block * groups * Self.group, to: (block + 1) * groups * Self.group, by: 2 * apart) {
        for place in run..<run + apart {
          out[at] = codes[place] | codes[place + apart] << 4
          at += 1
        }
      }
    }
    return out
  }

  /// The multiples of a block of 256.
  private func store(_ block: Int, _ unit: (scale: Float, minimum: Float), _ out: inout [UInt8], _ at: Int) {
    // The unit of a block of 0 is 0, that of a block which holds no numbers may be NaN or infinite.
    func whole(_ value: Float, _ unit: Float) -> Int { Int(exactly: (value / unit).rounded(.toNearestOrEven)) ?? 0 }
    for group in 0..<Self.together {
      let place = block * Self.together + group
      let scale = whole(scales[place], unit.scale)
      guard let zeros else {
        let code = UInt8(truncatingIfNeeded: scale + 32)
        out[at + 4 + group / 2] |= (code & 15) << UInt8(4 * (group % 2))
        out[at + 2 + group / 4] |= (code >> 4) << UInt8(2 * (group % 4))
        continue
      }
      let (s, m) = (UInt8(truncatingIfNeeded: scale), UInt8(truncatingIfNeeded: whole(-zeros[place], unit.minimum)))
      if group < 4 {
        out[at + 4 + group] |= s
        out[at + 8 + group] |= m
      } else {
        out[at + 8 + group] = s & 15 | (m & 15) << 4
        out[at + group] |= (s >> 4) << 6
        out[at + 4 + group] |= (m >> 4) << 6
      }
    }
  }
}

extension GGMLBlocks: FeedbackCodec {
  var levels: [Float] { GgmlGrid.Form(type)?.levels ?? [] }
  /// Rows are whole blocks.
  var filler: UInt8 { 0 }

  func searchedGrid(_ values: UnsafeMutablePointer<Float>, _ task: (ScaleSearch) -> EncodingTask) throws -> any BlockGrid {
    guard let form = GgmlGrid.Form(type) else { throw NibbleError(.failed, "\(type.name) has no 16 levels") }
    return GgmlGrid(form, try encoded(values, task(.mse)).sections[0], type)
  }

  func sections(_ codes: UnsafeMutableBufferPointer<UInt8>, _ grid: any BlockGrid) -> [[UInt8]] {
    (grid as? GgmlGrid).map { [$0.blocks(codes, type)] } ?? []
  }
}

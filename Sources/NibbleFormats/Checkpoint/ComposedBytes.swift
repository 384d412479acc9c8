import NibbleCore
import NibbleQuant
import Synchronization

/// Bytes of a section that are put together of other sections' bytes when they are read, and let go of with their reader.
package final class ComposedBytes: Sendable {
  /// How they come of their parts.
  package enum Rule: Hashable, Sendable {
    /// Every second unit of one part, of so many bytes: from the first or from the second on.
    case half(isSecond: Bool, unit: Int)
    /// A unit of each of two parts in turn.
    case woven(unit: Int)
    /// Blocks of ggml's mxfp4, of codes, two a byte with the first in the low half, and a scale for every 32.
    case mxfp4
    /// What of the second projection of latents gives keys, each head's turned; and what gives values.
    case latentKeys(LatentHeads)
    case latentValues(LatentHeads)
    /// That projection, of both.
    case latent(LatentHeads)
    /// A tensor's numbers in another type, or out of codes.
    case numbers(DType)
  }

  /// The second projection of latents, of so many heads, each of rows for keys and then rows for values, of so many numbers of `width` bytes.
  package struct LatentHeads: Hashable, Sendable {
    var heads, keys, values, rank, width: Int

    /// Bytes of the rows for keys, and of those for values; nil for what is too large or nothing.
    var bytes: (keys: Int, values: Int)? {
      guard width > 0, let all = elementCount(of: [heads, rank, width]), all > 0, keys > 0, values > 0 else { return nil }
      let (first, second) = (all.multipliedReportingOverflow(by: keys), all.multipliedReportingOverflow(by: values))
      guard !first.overflow, !second.overflow, !first.partialValue.addingReportingOverflow(second.partialValue).overflow else { return nil }
      return (first.partialValue, second.partialValue)
    }
  }

  let rule: Rule
  let parts: [StoredSection]
  /// What the parts are sections of, where its numbers are asked for.
  private let tensor: StoredTensor?
  /// Bytes there will be.
  let count: Int
  private let made = Mutex<[UInt8]?>(nil)

  /// - Returns: nil for parts that are not as the rule has them
  init?(_ rule: Rule, _ parts: [StoredSection]) {
    let lengths = parts.map(\.plainLength)
    (self.rule, self.parts, tensor) = (rule, parts, nil)
    switch rule {
    case .latentKeys(let heads), .latentValues(let heads):
      guard let bytes = heads.bytes, lengths == [bytes.keys + bytes.values] else { return nil }
      if case .latentKeys = rule { count = bytes.keys } else { count = bytes.values }
    case .latent(let heads):
      guard let bytes = heads.bytes, lengths == [bytes.keys, bytes.values] else { return nil }
      count = bytes.keys + bytes.values
    case .numbers: return nil
    case .half(_, let unit):
      guard lengths.count == 1, unit > 0, lengths[0] % (2 * unit) == 0 else { return nil }
      count = lengths[0] / 2
    case .woven(let unit):
      guard lengths.count == 2, unit > 0, lengths[0] == lengths[1], lengths[0] % unit == 0 else { return nil }
      let (sum, overflow) = lengths[0].addingReportingOverflow(lengths[1])
      guard !overflow else { return nil }
      count = sum
    case .mxfp4:
      guard lengths.count == 2, lengths[0] == lengths[1].multipliedReportingOverflow(by: 16).partialValue else { return nil }
      let (sum, overflow) = lengths[0].addingReportingOverflow(lengths[1])
      guard !overflow else { return nil }
      count = sum
    }
  }

  /// A tensor's numbers in a float type, in the order in which they are stored.
  ///
  /// - Returns: nil for more than there can be
  init?(_ dtype: DType, of tensor: StoredTensor) {
    (rule, parts, self.tensor) = (.numbers(dtype), tensor.sections, tensor)
    guard tensor.dtype.isFloat, [.f16, .bf16, .f32].contains(dtype), let count = elementCount(of: tensor.shape + [dtype.bitWidth / 8]) else { return nil }
    self.count = count
  }

  /// Bytes of memory that making them takes, with their parts.
  var memory: Int {
    parts.reduce(count) { sum, part in
      if case .composed(let other) = part.source { return sum + part.plainLength + other.memory }
      return sum + part.plainLength
    }
  }

  /// All of them; made once for as long as they are kept.
  func bytes(_ name: String) throws -> [UInt8] {
    try made.withLock { known in
      if let known { return known }
      let bytes = try tensor.map(numbers) ?? compose(try parts.map { try SectionReader($0, name).readWhole() })
      known = bytes
      return bytes
    }
  }

  func release() { made.withLock { $0 = nil } }

  private func numbers(of tensor: StoredTensor) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    guard case .numbers(let dtype) = rule else { return bytes }
    let width = dtype.bitWidth / 8
    try tensor.forEachValues { start, values, count, _ in
      bytes.withUnsafeMutableBytes { out in
        guard let out = out.baseAddress else { return }
        Kernels.narrow(dtype, values, count: count, out + start * width)
      }
    }
    return bytes
  }

  private func compose(_ parts: [[UInt8]]) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { out, initialized in
      switch rule {
      case .half(let isSecond, let unit):
        parts[0].withUnsafeBytes { from in
          let first = isSecond ? unit : 0
          for index in 0..<count / unit { Self.copy(from, first + 2 * unit * index, out, unit * index, unit) }
        }
      case .woven(let unit):
        for (place, part) in parts.enumerated() {
          part.withUnsafeBytes { from in
            for index in 0..<from.count / unit { Self.copy(from, unit * index, out, unit * (2 * index + place), unit) }
          }
        }
      case .mxfp4: Self.fillBlocks(out, codes: parts[0], scales: parts[1])
      case .latentKeys(let heads): heads.take(parts[0], keys: out)
      case .latentValues(let heads): heads.take(parts[0], values: out)
      case .latent(let heads): heads.join(keys: parts[0], values: parts[1], out)
      case .numbers: break
      }
      initialized = count
    }
  }

  private static func copy(_ from: UnsafeRawBufferPointer, _ start: Int, _ out: UnsafeMutableBufferPointer<UInt8>, _ place: Int, _ count: Int) {
    guard let source = from.baseAddress, let target = out.baseAddress else { return }
    UnsafeMutableRawPointer(target + place).copyMemory(from: source + start, byteCount: count)
  }

  /// A block is its scale, then 16 bytes: element j in the low half of byte j, element j + 16 in the high one.
  private static func fillBlocks(_ out: UnsafeMutableBufferPointer<UInt8>, codes: [UInt8], scales: [UInt8]) {
    for (block, scale) in scales.enumerated() {
      let (from, to) = (16 * block, 17 * block)
      func code(_ element: Int) -> UInt8 {
        let byte = codes[from + element / 2]
        return element % 2 == 0 ? byte & 15 : byte >> 4
      }
      out[to] = scale
      for index in 0..<16 { out[to + 1 + index] = code(index) | code(index + 16) << 4 }
    }
  }
}

extension StoredSection {
  /// A section whose bytes are composed; nil for parts that are not as the rule has them.
  init?(_ kind: SectionKind, _ rule: ComposedBytes.Rule, _ parts: [StoredSection]) {
    guard let composed = ComposedBytes(rule, parts) else { return nil }
    self.init(kind, composed)
  }

  init(_ kind: SectionKind, _ composed: ComposedBytes) {
    self.init(kind, bytes: [])
    source = .composed(composed)
    (storedLength, plainLength) = (composed.count, composed.count)
  }
}

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
  }

  let rule: Rule
  let parts: [StoredSection]
  /// Bytes there will be.
  let count: Int
  private let made = Mutex<[UInt8]?>(nil)

  /// - Returns: nil for parts that are not as the rule has them
  init?(_ rule: Rule, _ parts: [StoredSection]) {
    let lengths = parts.map(\.plainLength)
    (self.rule, self.parts) = (rule, parts)
    switch rule {
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
      let bytes = compose(try parts.map { try SectionReader($0, name).readWhole() })
      known = bytes
      return bytes
    }
  }

  func release() { made.withLock { $0 = nil } }

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
    self.init(kind, bytes: [])
    source = .composed(composed)
    (storedLength, plainLength) = (composed.count, composed.count)
  }
}

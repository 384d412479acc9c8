import NibbleCore

/// What turns codes of blocks into elements, as a reader has it.
protocol BlockScales: AnyObject {
  /// One a block.
  var absmax: UnsafeMutableBufferPointer<Float> { get }
  /// What is added to each block; nil for nothing.
  var offsets: UnsafeMutablePointer<Float>? { get }
}

extension BlockScales {
  var offsets: UnsafeMutablePointer<Float>? { nil }
}

/// Those of a stored tensor, with the plain bytes of the sections behind its codes.
protocol KeptBlockScales: TensorDecoder, BlockScales {
  var sections: [[UInt8]] { get }
}

/// The restored scales of a block-coded tensor.
final class BlockDecoder: KeptBlockScales, @unchecked Sendable {
  private let codec: BlockCodec
  let absmax: UnsafeMutableBufferPointer<Float>
  let sections: [[UInt8]]

  init(_ codec: BlockCodec, count: Int, _ sections: [[UInt8]], _ memory: Scratch) {
    (self.codec, self.sections) = (codec, sections)
    absmax = memory.floats(0, codec.blocks(count))
    guard let out = absmax.baseAddress else { return }
    guard let nested = codec.nested else {
      UnsafeMutableRawBufferPointer(absmax).copyBytes(from: sections[0])
      return
    }
    let offset = Self.floats(sections[2]).first ?? 0
    let nestedScales = Self.floats(sections[1])
    sections[0].withUnsafeBufferPointer { codes in
      nestedScales.withUnsafeBufferPointer { nestedScales in
        guard let base = nestedScales.baseAddress else { return }
        ScaleCoder.decode(
          codes, map: nested.codebook, nestedAbsmax: base, blockSize: nested.blockSize, offset: offset, absmax: out)
      }
    }
  }

  private static func floats(_ bytes: [UInt8]) -> [Float] {
    bytes.withUnsafeBytes { raw in
      (0..<raw.count / 4).map {
        Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self)))
      }
    }
  }

  var grain: Int { codec.blockSize }

  /// Whole blocks: `start` is a multiple of the block size.
  func codes(_ start: Int, _ count: Int) -> Range<Int> { start / 2..<start / 2 + codec.codeBytes(count) }

  func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    guard let scales = absmax.baseAddress else { return }
    Kernels.decode(
      codec, codes: codes.assumingMemoryBound(to: UInt8.self), count: count, absmax: scales + start / codec.blockSize, dtype, out)
  }
}

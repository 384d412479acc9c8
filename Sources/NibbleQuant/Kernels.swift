import CNibbleKernels
import NibbleCore

/// The instruction set the kernels run on. Encoding and decoding give the same bits on all.
package enum KernelVariant: String, Sendable, CaseIterable {
  case portable, avx2, avx512, avx512bf16, neon

  package var native: nibble_variant {
    switch self {
    case .portable: nibble_portable
    case .avx2: nibble_avx2
    case .avx512: nibble_avx512
    case .avx512bf16: nibble_avx512bf16
    case .neon: nibble_neon
    }
  }

  /// Whether this machine has it.
  package var runs: Bool { nibble_variant_runs(native) != 0 }

  /// The one in use; see `KernelChoice`.
  package static let current = KernelChoice.current.variant
}

extension DType {
  /// The kernels' name for this type; nil for those without arithmetic here.
  package var number: nibble_number? {
    switch self {
    case .f32: nibble_f32
    case .f16: nibble_f16
    case .bf16: nibble_bf16
    case .f64: nibble_f64
    case .f8e4m3: nibble_f8_e4m3
    case .f8e5m2: nibble_f8_e5m2
    case .f8e8m0: nibble_f8_e8m0
    case .u8, .bool: nibble_u8
    case .i8: nibble_i8
    case .u16: nibble_u16
    case .i16: nibble_i16
    case .u32: nibble_u32
    case .i32: nibble_i32
    case .u64: nibble_u64
    case .i64: nibble_i64
    case .f4, .f6e2m3, .f6e3m2, .c64, .f8e4m3fnuz, .f8e5m2fnuz: nil
    }
  }

  /// Whether values of this type can be read as float32, to be measured and compared.
  package var isNumeric: Bool { number != nil }

  /// Whether this type can say NaN or infinity.
  package var canBeNonfinite: Bool {
    switch self {
    case .f32, .f16, .bf16, .f64, .f8e4m3, .f8e5m2, .f8e8m0: true
    default: false
    }
  }
}

extension EncodingRules {
  var native: nibble_rules {
    switch self {
    case .nearest: nibble_nearest
    case .cuda: nibble_cuda
    case .cpu: nibble_cpu
    }
  }
}

/// What an encoder met besides ordinary numbers.
package struct EncodeCounts: Sendable {
  /// NaN and infinite elements.
  package var nonfinite = 0
  /// Of these, elements that are finite in the source: they share a scale with one that is not, or are beyond what scales hold.
  package var finiteLost = 0
  /// Blocks of nothing but zeros.
  package var zeroBlocks = 0
  /// Groups that become zeros because the type of their scales holds none so small.
  package var vanished = 0
  /// Groups whose scale is subnormal in its type and so has fewer digits.
  package var subnormal = 0

  package init() {}

  package static func += (a: inout EncodeCounts, b: EncodeCounts) {
    a.nonfinite += b.nonfinite
    a.finiteLost += b.finiteLost
    a.zeroBlocks += b.zeroBlocks
    a.vanished += b.vanished
    a.subnormal += b.subnormal
  }

  /// All of them, for a journal.
  package var all: [Int] { [nonfinite, finiteLost, zeroBlocks, vanished, subnormal] }

  /// nil for what `all` does not give, and for counts whose sums might overflow.
  package init?(all: [Int]) {
    guard all.count == 5, all.allSatisfy((0...1 << 40).contains) else { return nil }
    (nonfinite, finiteLost, zeroBlocks, vanished, subnormal) = (all[0], all[1], all[2], all[3], all[4])
  }
}

/// The kernels as functions over memory; lengths are the caller's promise. The one file that calls them.
package enum Kernels {
  /// Encodes `count` elements from a block's start. `moments` takes three floats a block: with s the scaled element, q its
  /// code's value and e = s − q, the sums of e², e·q and q².
  package static func encode(
    _ codec: BlockCodec, _ rules: EncodingRules, _ dtype: DType, _ x: UnsafeRawPointer, count: Int,
    codes: UnsafeMutablePointer<UInt8>, absmax: UnsafeMutablePointer<Float>, moments: UnsafeMutablePointer<Float>?,
    variant: KernelVariant = .current
  ) -> EncodeCounts {
    var counts = nibble_encode_counts()
    nibble_encode(
      variant.native, codec.code.encoder, rules.native, dtype.number ?? nibble_f32, x, count, codec.blockSize,
      codes, absmax, moments, &counts)
    return EncodeCounts(counts)
  }

  /// Encodes to the nearest code under given scales.
  package static func encode(
    _ codec: BlockCodec, scales: UnsafePointer<Float>, _ dtype: DType, _ x: UnsafeRawPointer, count: Int,
    codes: UnsafeMutablePointer<UInt8>, moments: UnsafeMutablePointer<Float>?, variant: KernelVariant = .current
  ) -> EncodeCounts {
    var counts = nibble_encode_counts()
    nibble_encode_scaled(
      variant.native, codec.code.encoder, dtype.number ?? nibble_f32, x, count, codec.blockSize, scales,
      codes, moments, &counts)
    return EncodeCounts(counts)
  }

  /// For each block a scale of small squared error, never worse than absmax.
  ///
  /// - Parameter bothSigns: whether it may be negative, which turns a lopsided set of values around
  package static func searchScales(
    _ codec: BlockCodec, bothSigns: Bool, _ dtype: DType, _ x: UnsafeRawPointer, count: Int,
    scales: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) -> EncodeCounts {
    var counts = nibble_encode_counts()
    nibble_search_scales(
      variant.native, codec.code.encoder, bothSigns ? 1 : 0, dtype.number ?? nibble_f32, x, count, codec.blockSize, scales, &counts
    )
    return EncodeCounts(counts)
  }

  /// Offsets of blocks as `search` wants them; without one they stay as they are.
  ///
  /// - Parameter ends: gets two numbers a block, its least and greatest element
  package static func findOffsets(
    _ search: OffsetSearch?, _ x: UnsafePointer<Float>, count: Int, block: Int, offsets: UnsafeMutablePointer<Float>,
    ends: UnsafeMutablePointer<Float>
  ) -> EncodeCounts {
    var counts = nibble_encode_counts()
    guard let search else {
      nibble_find_offsets(nil, x, count, block, offsets, ends, &counts)
      return EncodeCounts(counts)
    }
    search.factors.withUnsafeBufferPointer { factors in
      OffsetSearch.entropyTerms.withUnsafeBufferPointer { terms in
        var native = nibble_offset_search(
          steps: search.steps, factors: factors.baseAddress, terms: search.score == .entropy ? terms.baseAddress : nil,
          centre: search.order == .centre ? 1 : 0)
        nibble_find_offsets(&native, x, count, block, offsets, ends, &counts)
      }
    }
    return EncodeCounts(counts)
  }

  /// The scale of each block without its offset, from its least and greatest element.
  ///
  /// - Returns: blocks of zeros
  package static func offsetScales(
    ends: UnsafePointer<Float>, offsets: UnsafePointer<Float>, blocks: Int, _ absmax: UnsafeMutablePointer<Float>
  ) -> Int { nibble_offset_scales(ends, offsets, blocks, absmax) }

  /// Adds its offset to each element of each block.
  package static func add(offsets: UnsafePointer<Float>, block: Int, _ x: UnsafeMutablePointer<Float>, count: Int) {
    nibble_add_offsets(offsets, 1, block, x, count)
  }

  /// Takes its offset from each element of each block.
  package static func subtract(offsets: UnsafePointer<Float>, block: Int, _ x: UnsafeMutablePointer<Float>, count: Int) {
    nibble_add_offsets(offsets, -1, block, x, count)
  }

  /// Decodes `count` elements from a block's start into `dtype` (F32, F16 or BF16).
  package static func decode(
    _ codec: BlockCodec, codes: UnsafePointer<UInt8>, count: Int, absmax: UnsafePointer<Float>, _ dtype: DType,
    _ out: UnsafeMutableRawPointer, variant: KernelVariant = .current
  ) {
    codec.codebook.values.withUnsafeBufferPointer { table in
      guard let table = table.baseAddress else { return }
      nibble_decode(
        variant.native, table, codes, count, codec.blockSize, absmax, dtype.number ?? nibble_f32, out)
    }
  }

  /// Encodes `count` elements, whole rows, as ggml does with an importance of each column: finite numbers that are not negative.
  package static func encode(
    _ type: GGMLType, _ x: UnsafePointer<Float>, count: Int, importance: UnsafeBufferPointer<Float>, _ blocks: UnsafeMutableRawPointer,
    variant: KernelVariant = .current
  ) -> EncodeCounts {
    var counts = nibble_ggml_counts()
    nibble_ggml_encode_rows(
      variant.native, type.native, x, importance.baseAddress, importance.count, count / type.blockElements, blocks, &counts)
    return EncodeCounts(counts)
  }

  /// Encodes `count` elements, whole blocks, as ggml does.
  package static func encode(
    _ type: GGMLType, _ x: UnsafePointer<Float>, count: Int, _ blocks: UnsafeMutableRawPointer, variant: KernelVariant = .current
  ) -> EncodeCounts {
    var counts = nibble_ggml_counts()
    nibble_ggml_encode(variant.native, type.native, x, count / type.blockElements, blocks, &counts)
    return EncodeCounts(counts)
  }

  /// Decodes elements `first..<first + count` of ggml's blocks into `dtype` (F32, F16 or BF16).
  package static func decode(
    _ type: GGMLType, _ blocks: UnsafeRawPointer, from first: Int, count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer,
    variant: KernelVariant = .current
  ) {
    nibble_ggml_decode(variant.native, type.native, blocks, first, count, dtype.number ?? nibble_f32, out)
  }

  /// Numbers of `dtype` as float32. Exact except for F64 and wide integers, which are rounded once.
  package static func widen(
    _ dtype: DType, _ x: UnsafeRawPointer, count: Int, _ out: UnsafeMutablePointer<Float>,
    variant: KernelVariant = .current
  ) {
    nibble_widen(variant.native, dtype.number ?? nibble_f32, x, count, out)
  }

  /// float32 rounded to nearest even into F32, F16 or BF16.
  package static func narrow(
    _ dtype: DType, _ x: UnsafePointer<Float>, count: Int, _ out: UnsafeMutableRawPointer,
    variant: KernelVariant = .current
  ) {
    nibble_narrow(variant.native, dtype.number ?? nibble_f32, x, count, out)
  }

  /// NaN and infinite values among `count` numbers.
  package static func countNonfinite(_ dtype: DType, _ x: UnsafeRawPointer, count: Int) -> Int {
    guard dtype.canBeNonfinite, let number = dtype.number else { return 0 }
    return Int(nibble_count_nonfinite(KernelVariant.current.native, number, x, count))
  }

  /// out[c · rows + r] = x[r · stride + c].
  package static func transpose(
    _ dtype: DType, _ x: UnsafeRawPointer, rows: Int, columns: Int, stride: Int, _ out: UnsafeMutableRawPointer
  ) {
    nibble_transpose(dtype.bitWidth / 8, x, rows, columns, stride, out)
  }

  /// All first bytes of elements of 2 or 4 bytes, then all second bytes, …: what compresses better than they do.
  package static func splitPlanes(element: Int, _ x: UnsafePointer<UInt8>, count: Int, _ out: UnsafeMutablePointer<UInt8>) {
    nibble_split_planes(element, x, count, out)
  }

  /// The reverse of `splitPlanes`.
  package static func joinPlanes(element: Int, _ x: UnsafePointer<UInt8>, count: Int, _ out: UnsafeMutablePointer<UInt8>) {
    nibble_join_planes(element, x, count, out)
  }
}

extension EncodeCounts {
  init(_ counts: nibble_encode_counts) {
    nonfinite = Int(counts.nonfinite)
    zeroBlocks = Int(counts.zero_blocks)
  }

  init(_ counts: nibble_ggml_counts) {
    (nonfinite, finiteLost) = (Int(counts.nonfinite), Int(counts.finite_lost))
    (zeroBlocks, vanished, subnormal) = (Int(counts.zero_blocks), Int(counts.vanished), Int(counts.subnormal))
  }
}

import CNibbleKernels
import NibbleCore
import NibbleQuant

/// What matrix products are computed in.
public enum Compute: String, Sendable, CaseIterable {
  /// Weights and activations as float32.
  case f32 = "fp32"
  /// Weights and activations rounded to bfloat16, sums in float32.
  case bf16

  var native: nibble_compute { self == .f32 ? nibble_compute_f32 : nibble_compute_bf16 }
}

/// A weight matrix in memory that someone else keeps alive, as the kernels see it.
package struct MatrixView: @unchecked Sendable {  // nothing writes through the pointers
  package internal(set) var native: nibble_matrix

  init(_ native: nibble_matrix) { self.native = native }

  package var rows: Int { native.rows }
  package var columns: Int { native.columns }

  /// Plain elements, row by row; `dtype` is F32, F16 or BF16.
  package init(rows: Int, columns: Int, _ dtype: DType, _ elements: UnsafeRawPointer) {
    native = nibble_matrix()
    native.rows = rows
    native.columns = columns
    switch dtype {
    case .f32: native.number = nibble_f32
    case .f16: native.number = nibble_f16
    case .bf16: native.number = nibble_bf16
    default: preconditionFailure("products with \(dtype)")
    }
    native.data = elements
  }

  /// Signed bytes with a float32 scale a row, which may be unaligned.
  package init(rows: Int, columns: Int, bytes: UnsafeRawPointer, scales: UnsafeRawPointer) {
    native = nibble_matrix()
    native.rows = rows
    native.columns = columns
    native.storage = nibble_row_storage()
    native.data = bytes
    native.scales = scales.assumingMemoryBound(to: Float.self)
  }

  /// 4-bit codes with a float32 scale a block. Scales may be unaligned; the codebook's 16 values are read in place.
  package init(
    rows: Int, columns: Int, codes: UnsafeRawPointer, blockSize: Int, codebook: UnsafePointer<Float>,
    scales: UnsafeRawPointer
  ) {
    native = nibble_matrix()
    native.rows = rows
    native.columns = columns
    native.storage = nibble_block_storage()
    native.data = codes
    native.block = blockSize
    native.codebook = codebook
    native.scales = scales.assumingMemoryBound(to: Float.self)
  }

  /// 4-bit codes with scales that are coded themselves. The two tables are read in place.
  package init(
    rows: Int, columns: Int, codes: UnsafeRawPointer, blockSize: Int, codebook: UnsafePointer<Float>,
    scaleCodes: UnsafeRawPointer, scaleMap: UnsafePointer<Float>, nestedScales: UnsafeRawPointer, nestedBlockSize: Int,
    offset: Float
  ) {
    native = nibble_matrix()
    native.rows = rows
    native.columns = columns
    native.storage = nibble_block_storage()
    native.data = codes
    native.block = blockSize
    native.codebook = codebook
    native.scale_codes = scaleCodes.assumingMemoryBound(to: UInt8.self)
    native.scale_map = scaleMap
    native.nested_scales = nestedScales.assumingMemoryBound(to: Float.self)
    native.nested_block = nestedBlockSize
    native.offset = offset
  }
}

/// Products with weight matrices as functions over memory; lengths are the caller's promise. The one file that calls them.
///
/// Left-hand sides are packed once, then used for any ranges of outputs from any number of threads; an output does not
/// depend on the range it is computed in. Packed and scratch memory is aligned to 64 bytes, and every thread has its own scratch.
package enum ProductKernels {
  /// Bytes `pack` writes for `m` rows of `k` numbers.
  package static func packedBytes(_ compute: Compute, m: Int, k: Int, variant: KernelVariant = .current) -> Int {
    nibble_packed_bytes(variant.native, compute.native, m, k)
  }

  /// Packs x[m, k], rows `stride` floats apart.
  package static func pack(
    _ compute: Compute, _ x: UnsafePointer<Float>, m: Int, k: Int, stride: Int, into packed: UnsafeMutableRawPointer,
    variant: KernelVariant = .current
  ) {
    nibble_pack_rows(variant.native, compute.native, x, m, k, stride, packed)
  }

  /// Bytes of scratch a product of `count` outputs needs.
  package static func scratchBytes(
    _ compute: Compute, _ w: MatrixView, m: Int, count: Int, variant: KernelVariant = .current
  ) -> Int {
    withUnsafePointer(to: w.native) { nibble_multiply_scratch(variant.native, compute.native, $0, m, count) }
  }

  /// Ranges of outputs should be multiples of this.
  package static func step(_ compute: Compute, m: Int, variant: KernelVariant = .current) -> Int {
    nibble_multiply_step(variant.native, compute.native, m)
  }

  /// y[i · stride + j] = Σ x[i, k] · W[j, k] for j in `outputs`; added to y if `add`. `packed` has k = columns.
  package static func multiply(
    _ compute: Compute, _ w: MatrixView, packed: UnsafeRawPointer, m: Int, outputs: Range<Int>, add: Bool = false,
    into y: UnsafeMutablePointer<Float>, stride: Int, scratch: UnsafeMutableRawPointer, variant: KernelVariant = .current
  ) {
    withUnsafePointer(to: w.native) {
      nibble_multiply(
        variant.native, compute.native, $0, packed, m, outputs.lowerBound, outputs.count, add ? 1 : 0, y, stride, scratch)
    }
  }

  /// dx[i · stride + k] = Σ dy[i, j] · W[j, k] for k in `outputs`; added to dx if `add`. `packed` has k = rows.
  package static func multiplyTransposed(
    _ compute: Compute, _ w: MatrixView, packed: UnsafeRawPointer, m: Int, outputs: Range<Int>, add: Bool = false,
    into dx: UnsafeMutablePointer<Float>, stride: Int, scratch: UnsafeMutableRawPointer, variant: KernelVariant = .current
  ) {
    withUnsafePointer(to: w.native) {
      nibble_multiply_transposed(
        variant.native, compute.native, $0, packed, m, outputs.lowerBound, outputs.count, add ? 1 : 0, dx, stride, scratch)
    }
  }

  /// Rows of W as float32, bit for bit the same in every variant.
  package static func rows(
    _ w: MatrixView, _ rows: Range<Int>, into out: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) {
    withUnsafePointer(to: w.native) { nibble_matrix_rows(variant.native, $0, rows.lowerBound, rows.count, out) }
  }
}

import CNibbleKernels
import NibbleCore
import NibbleQuant

/// What products are computed in. Sums are float32 in both.
public enum Compute: String, Sendable, CaseIterable {
  /// Weights and activations as float32.
  case f32 = "fp32"
  /// Weights and activations rounded to bfloat16.
  case bf16

  var native: nibble_compute { self == .f32 ? nibble_compute_f32 : nibble_compute_bf16 }
}

/// The products with weight matrices as functions over memory; lengths are the caller's promise. The one file that calls them.
package enum ProductKernels {
  package static func step(_ compute: Compute, _ m: Int, variant: KernelVariant = .current) -> Int {
    nibble_multiply_step(variant.native, compute.native, m)
  }

  package static func packedBytes(_ compute: Compute, _ m: Int, _ k: Int, variant: KernelVariant = .current) -> Int {
    nibble_packed_bytes(variant.native, compute.native, m, k)
  }

  package static func pack(
    _ compute: Compute, _ x: UnsafePointer<Float>, _ m: Int, _ k: Int, stride: Int, into packed: UnsafeMutableRawPointer,
    variant: KernelVariant = .current
  ) {
    nibble_pack_rows(variant.native, compute.native, x, m, k, stride, packed)
  }

  /// y = x · Wᵀ for some outputs of a layer's weight, whichever way it is stored.
  package static func multiply(
    _ compute: Compute, _ matrix: Matrix, _ packed: UnsafeRawPointer, _ m: Int, _ outputs: Range<Int>, add: Bool,
    _ y: UnsafeMutablePointer<Float>, stride: Int, _ scratch: Scratch, slot: Int, variant: KernelVariant = .current
  ) {
    withUnsafePointer(to: matrix.native) { native in
      let bytes = nibble_multiply_scratch(variant.native, compute.native, native, m, outputs.count)
      let room = scratch.bytes(slot, bytes).baseAddress
      if matrix.isTransposed {
        nibble_multiply_transposed(
          variant.native, compute.native, native, packed, m, outputs.lowerBound, outputs.count, add ? 1 : 0, y, stride, room)
      } else {
        nibble_multiply(
          variant.native, compute.native, native, packed, m, outputs.lowerBound, outputs.count, add ? 1 : 0, y, stride, room)
      }
    }
  }

  /// Rows of the stored matrix as float32.
  package static func rows(
    _ matrix: Matrix, _ rows: Range<Int>, into out: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) {
    withUnsafePointer(to: matrix.native) { nibble_matrix_rows(variant.native, $0, rows.lowerBound, rows.count, out) }
  }

  /// Rows of the stored matrix by number, one after another.
  package static func lookUp(
    _ matrix: Matrix, _ indices: [Int], into out: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) {
    for (place, index) in indices.enumerated() {
      rows(matrix, index..<index + 1, into: out + place * matrix.native.columns, variant: variant)
    }
  }
}

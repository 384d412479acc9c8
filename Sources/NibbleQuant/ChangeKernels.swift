import CNibbleKernels

/// What merging does to weights, as functions over memory; lengths are the caller's promise.
package enum ChangeKernels {
  /// out[i · outStride + j] = Σ left[i · rank + k] · right[k · rightStride + j]: fused multiply-adds in the order of k, the same bits
  /// from every variant.
  package static func lowRank(
    _ left: UnsafePointer<Float>, rows: Int, _ right: UnsafePointer<Float>, rightStride: Int, columns: Int, rank: Int,
    _ out: UnsafeMutablePointer<Float>, outStride: Int, variant: KernelVariant = .current
  ) {
    nibble_low_rank(variant.native, left, rank, rows, right, rightStride, columns, rank, out, outStride)
  }

  /// Adds up how far `written` is from `base`, against `delta`.
  package static func measure(
    base: UnsafePointer<Float>, written: UnsafePointer<Float>, delta: UnsafePointer<Float>, count: Int,
    variant: KernelVariant = .current
  ) -> ChangeSums {
    var sums: (Double, Double, Double, Double) = (0, 0, 0, 0)
    withUnsafeMutableBytes(of: &sums) {
      guard let start = $0.baseAddress?.assumingMemoryBound(to: Double.self) else { return }
      nibble_change_sums(variant.native, base, written, delta, count, start)
    }
    return ChangeSums(kept: sums.0, delta: sums.1, base: sums.2, noise: sums.3)
  }
}

/// What became of a wanted change Δ of a weight: sums over its elements, with W_base what would have been written without it.
public struct ChangeSums: Sendable, Equatable {
  /// ⟨W_written − W_base, Δ⟩
  public var kept = 0.0
  /// ⟨Δ, Δ⟩
  public var delta = 0.0
  /// ⟨W_base, W_base⟩
  public var base = 0.0
  /// ‖W_written − W_base − Δ‖²
  public var noise = 0.0
  /// ‖(W_written − W_base − Δ) · Vᵀ‖² with V an orthonormal basis of the row space of the adapter's A, where that was measured.
  public var inner = 0.0
  /// ⟨Δ, Δ⟩ where `inner` was measured.
  public var innerDelta = 0.0

  /// Nothing yet.
  public init(kept: Double = 0, delta: Double = 0, base: Double = 0, noise: Double = 0) {
    self.kept = kept
    self.delta = delta
    self.base = base
    self.noise = noise
  }

  /// The share of the change that was kept, ⟨W_written − W_base, Δ⟩ / ⟨Δ, Δ⟩; 1 where there was nothing to keep.
  public var survival: Double { delta == 0 ? 1 : kept / delta }
  /// ‖Δ‖ / ‖W_base‖
  public var relativeDelta: Double { base == 0 ? (delta == 0 ? 0 : .infinity) : (delta / base).squareRoot() }
  /// ‖W_written − W_base − Δ‖ / ‖W_base‖
  public var relativeNoise: Double { base == 0 ? (noise == 0 ? 0 : .infinity) : (noise / base).squareRoot() }
  /// The noise in the directions of the input that the adapter reads, ‖(W_written − W_base − Δ) · Vᵀ‖ / ‖Δ‖; nil where it was not
  /// measured.
  public var innerNoise: Double? { innerDelta == 0 ? nil : (inner / innerDelta).squareRoot() }
  /// ‖noise‖ / ‖Δ‖: in the directions of the input that the adapter reads where that was measured, else over all.
  public var noiseRatio: Double { innerNoise ?? (delta == 0 ? 0 : (noise / delta).squareRoot()) }
  /// Whether `survival` measures the noise instead of the change: the noise is larger, and the share is no share, below 0 or well above 1.
  public var isLostInNoise: Bool { noiseRatio > 1 && !((0...1.05).contains(survival)) }
  /// Whether the sums say anything: numbers near the end of float32 have squares beyond it.
  public var isMeasured: Bool { [kept, delta, base, noise, inner, innerDelta].allSatisfy(\.isFinite) }
  /// Whether the change is zero everywhere.
  public var isDead: Bool { delta == 0 }

  /// The sums over both.
  public static func += (a: inout ChangeSums, b: ChangeSums) {
    a.kept += b.kept
    a.delta += b.delta
    a.base += b.base
    a.noise += b.noise
    a.inner += b.inner
    a.innerDelta += b.innerDelta
  }
}

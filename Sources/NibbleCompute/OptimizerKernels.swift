import CNibbleKernels
import NibbleQuant

/// Steps of optimizers over memory, and their states in 8 bits; lengths are the caller's promise. Every variant gives the same bits. The
/// one file that calls these kernels.
package enum OptimizerKernels {
  package typealias Floats = UnsafeMutablePointer<Float>

  /// One step of Adam: m += (1 − β₁)(d − m), v = β₂ v + (1 − β₂) d², p = keep · p − size · m / (√v / root + ε), d = g + coupled · keep · p.
  package struct Adam: Sendable {
    package var keep: Float
    package var coupled: Float
    package var firstShare: Float
    package var beta2: Float
    package var secondShare: Float
    package var size: Float
    package var root: Float
    package var epsilon: Float

    package init(
      keep: Float, coupled: Float, firstShare: Float, beta2: Float, secondShare: Float, size: Float, root: Float, epsilon: Float
    ) {
      (self.keep, self.coupled, self.firstShare, self.beta2) = (keep, coupled, firstShare, beta2)
      (self.secondShare, self.size, self.root, self.epsilon) = (secondShare, size, root, epsilon)
    }
  }

  package static func adam(
    _ step: Adam, _ p: Floats, _ g: Floats, _ m: Floats, _ v: Floats, count: Int, variant: KernelVariant = .current
  ) {
    var native = nibble_adam(
      keep: step.keep, coupled: step.coupled, first_share: step.firstShare, beta2: step.beta2, second_share: step.secondShare,
      size: step.size, root: step.root, epsilon: step.epsilon)
    nibble_adam_step(variant.native, &native, p, g, m, v, count)
  }

  /// With d = g + decay · p: m = momentum · m + d, or d in the first step; p −= rate · m. Without m: p −= rate · d.
  package static func descend(
    rate: Float, decay: Float, momentum: Float, isFirst: Bool, _ p: Floats, _ g: Floats, _ m: Floats?, count: Int,
    variant: KernelVariant = .current
  ) {
    var native = nibble_descent(rate: rate, decay: decay, momentum: momentum, first: isFirst ? 1 : 0)
    nibble_descent_step(variant.native, &native, p, g, m, count)
  }

  /// p = keep · p − rate · sign(β₁ m + (1 − β₁) g), then m = β₂ m + (1 − β₂) g.
  package static func lion(
    rate: Float, keep: Float, beta1: (Float, Float), beta2: (Float, Float), _ p: Floats, _ g: Floats, _ m: Floats, count: Int,
    variant: KernelVariant = .current
  ) {
    var native = nibble_lion(rate: rate, keep: keep, beta1: beta1.0, share1: beta1.1, beta2: beta2.0, share2: beta2.1)
    nibble_lion_step(variant.native, &native, p, g, m, count)
  }

  /// One step of schedule-free AdamW: v = β₂ v + (1 − β₂) g², d = g / (√(v / correction) + ε) + decay · y; y moves towards z by `weight`, then
  /// y += slope · d, z −= rate · d.
  package struct ScheduleFree: Sendable {
    package var rate: Float
    package var slope: Float
    package var weight: Float
    package var decay: Float
    package var beta2: Float
    package var secondShare: Float
    package var correction: Float
    package var epsilon: Float

    package init(
      rate: Float, slope: Float, weight: Float, decay: Float, beta2: Float, secondShare: Float, correction: Float, epsilon: Float
    ) {
      (self.rate, self.slope, self.weight, self.decay) = (rate, slope, weight, decay)
      (self.beta2, self.secondShare, self.correction, self.epsilon) = (beta2, secondShare, correction, epsilon)
    }
  }

  package static func scheduleFree(
    _ step: ScheduleFree, _ y: Floats, _ g: Floats, _ z: Floats, _ v: Floats, count: Int, variant: KernelVariant = .current
  ) {
    var native = nibble_schedule_free(
      rate: step.rate, slope: step.slope, weight: step.weight, decay: step.decay, beta2: step.beta2, second_share: step.secondShare,
      correction: step.correction, epsilon: step.epsilon)
    nibble_schedule_free_step(variant.native, &native, y, g, z, v, count)
  }

  /// x moves towards z by `weight`, as torch's `lerp` does.
  package static func move(_ x: Floats, towards z: Floats, by weight: Float, count: Int, variant: KernelVariant = .current) {
    nibble_move_towards(variant.native, weight, x, z, count)
  }

  // MARK: Adafactor

  /// Σ (g² + ε).
  package static func squareSum(_ g: Floats, epsilon: Float, count: Int, variant: KernelVariant = .current) -> Double {
    nibble_square_sum(variant.native, g, count, epsilon)
  }

  /// sums += g² + ε, number by number.
  package static func addSquares(
    _ g: Floats, epsilon: Float, count: Int, to sums: UnsafeMutablePointer<Double>, variant: KernelVariant = .current
  ) {
    nibble_add_squares(variant.native, g, count, epsilon, sums)
  }

  /// v = keep · v + share · (g² + ε).
  package static func meanSquares(
    _ g: Floats, epsilon: Float, keep: Float, share: Float, _ v: Floats, count: Int, variant: KernelVariant = .current
  ) {
    nibble_mean_squares(variant.native, g, count, epsilon, keep, share, v)
  }

  /// Σ u² for u = row · factors · g.
  package static func updateSum(_ g: Floats, factors: Floats, row: Float, count: Int, variant: KernelVariant = .current) -> Double {
    nibble_update_sum(variant.native, g, factors, row, count)
  }

  /// p = p + decay · p − size · u.
  package static func update(
    _ p: Floats, _ g: Floats, factors: Floats, row: Float, decay: Float, size: Float, count: Int, variant: KernelVariant = .current
  ) {
    nibble_update_step(variant.native, p, g, factors, row, count, decay, size)
  }

  /// out = 1 / √(scale · x).
  package static func inverseRoots(_ x: Floats, scale: Float, count: Int, _ out: Floats, variant: KernelVariant = .current) {
    nibble_inverse_roots(variant.native, x, count, scale, out)
  }
}

/// One of the two maps of 256 values that bitsandbytes keeps states of optimizers in, as a formula that is within 2 units in the last place of
/// its table: a step that looks values up takes longer than all the rest.
package struct StateMap: Sendable {
  /// Numbers that share a scale.
  package static let block = Int(nibble_state_block)
  /// For numbers of both signs, and for numbers that are never negative.
  package static let signed = StateMap(isSigned: true), unsigned = StateMap(isSigned: false)

  // Made once, and kept.
  private nonisolated(unsafe) let native: UnsafePointer<nibble_state_map>

  private init(isSigned: Bool) {
    let map = UnsafeMutablePointer<nibble_state_map>.allocate(capacity: 1)
    nibble_make_state_map(isSigned ? 1 : 0, map)
    native = UnsafePointer(map)
  }

  /// out = value of the code · absmax of its block.
  package func decode(
    _ codes: UnsafePointer<UInt8>, count: Int, absmax: UnsafePointer<Float>, _ out: UnsafeMutablePointer<Float>,
    variant: KernelVariant = .current
  ) {
    nibble_decode_states(variant.native, native, codes, count, absmax, out)
  }

  /// The codes of the values nearest to x over the greatest magnitude of its block. Positive numbers of the unsigned map never become 0.
  package func encode(
    _ x: UnsafePointer<Float>, count: Int, codes: UnsafeMutablePointer<UInt8>, absmax: UnsafeMutablePointer<Float>,
    variant: KernelVariant = .current
  ) {
    nibble_encode_states(variant.native, native, x, count, codes, absmax)
  }
}

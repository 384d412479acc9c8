import NibbleCompute
import NibbleCore
import NibbleQuant

/// How codes are chosen from what a model's layers take.
public struct CalibrationOptions: Sendable {
  /// The ways there are.
  public enum Encoder: String, Sendable {
    /// Error feedback towards a moved target, then descent: what leaves the least error.
    case calibrated
    /// GPTQ (arXiv:2210.17323) as it was published, of int4 groups: columns in their order, ranges of the weights as they are when a
    /// group's turn comes. For comparison.
    case gptq
  }

  public var encoder = Encoder.calibrated
  /// λ, what is added to the diagonal of the moments, as a share of its mean.
  public var damping = 0.01
  /// The same where there are fewer tokens than `scarceTokens` a channel.
  public var scarceDamping = 0.1
  public var scarceTokens = 5.0
  /// A token whose energy is above this many times the median counts as if it had that energy. Massive activations, of a window's first
  /// token most often, would rule every sum otherwise.
  public var cap = 100.0
  /// Where no tokens are held out, targets move only if there are this many tokens a channel.
  public var ampleTokens = 10.0
  /// Stronger dampings that targets are tried with, as multiples of the first: where inputs lack something, and where outputs are added to a
  /// residual stream, most of whose lack is none of the matrix's doing.
  public var entryDampings = [5.0]
  public var exitDampings = [25.0, 125.0]
  /// Wider matrices are tried with the first of them only: a factor takes the cube of the width.
  public var widestTried = 4096
  /// Rounds of descent over scales and codes behind error feedback.
  public var rounds = 3
  /// The rank of corrections that are fitted to what codes leave; nil for none.
  public var correctionRank: Int?

  /// What was measured to be best.
  public init() {}

  /// The most tokens of a window.
  public static let window = 256
}

/// What calibration did to one tensor, measured on tokens that were held out.
public struct TensorCertificate: Sendable {
  /// Its name in the checkpoint.
  public let name: String
  /// Tokens its moments were taken from.
  public let tokens: Int
  /// Of these, tokens whose energy was capped.
  public let capped: Int
  /// Tokens the error was measured on, and whether they were held out of the moments.
  public let measured: Int
  public let isHeldOut: Bool
  /// ‖(Q x̂ + r̂) − (W x + r)‖² / ‖W x‖² with codes rounded to searched scales (`mse`): Q and x̂ of the packed model, W and x of the float
  /// one, r the residual stream the output is added to, with outputs multiplied as they are on their way there.
  public let before: Double
  /// The same with the calibrated codes.
  public let after: Double
  /// ‖T − W‖ / ‖W‖: how far the target moved.
  public let moved: Double
  /// The damping its move was computed with, and the share of the move that was made.
  public let damping: Double
  public let share: Double
  /// Whether the calibrated codes are the better ones, and were taken.
  public let isTaken: Bool
  /// The error with the correction, where there is one.
  public let corrected: Double?
  /// What became of what is merged into the tensor, in the outputs; nil where nothing is.
  public let change: ChangeSums?
}

/// What calibration did.
public struct CalibrationReport: Sendable {
  /// One a calibrated tensor, in the order of the pass.
  public internal(set) var certificates: [TensorCertificate] = []
  /// In the order of the pass.
  public internal(set) var corrections: [Correction] = []
  /// Tensors whose scales were searched for with the moments, and whose codes were rounded.
  public internal(set) var weighed = 0
  /// Packed tensors that no calibrated step of the forward pass reads.
  public internal(set) var unreached: [String] = []
  /// Tokens of the calibration text, those that were held out among them.
  public internal(set) var tokens = 0
  public internal(set) var heldOut = 0
  public internal(set) var windows = 0
  /// What the packed layers make of the model's answers, on the tokens that were held out, or on some of the text's own: KL(float ‖ packed)
  /// of next tokens in nats, or the squared error of final states over their squares.
  public internal(set) var divergence: TokenMean?
  public internal(set) var isDivergenceOfScores = false
  /// Tensors whose codes an earlier run decided.
  public internal(set) var resumed = 0
  public internal(set) var seconds = 0.0
  public internal(set) var warnings: [Warning] = []

  /// Tensors whose calibrated codes were taken.
  public var taken: Int { certificates.count { $0.isTaken } }
  /// The most tokens that were capped for one tensor, and the tensor's name.
  public var mostCapped: TensorCertificate? { certificates.filter { $0.capped > 0 }.max { $0.capped < $1.capped } }
  /// Means over tensors.
  public var meanBefore: Double { mean(\.before) }
  public var meanAfter: Double { mean { $0.isTaken ? $0.after : $0.before } }
  /// The same with corrections.
  public var meanCorrected: Double { mean { $0.corrected ?? ($0.isTaken ? $0.after : $0.before) } }

  private func mean(_ value: (TensorCertificate) -> Double) -> Double {
    certificates.isEmpty ? 0 : certificates.reduce(0) { $0 + value($1) } / Double(certificates.count)
  }
}

/// Calibration as a whole.
public enum Calibration {
  /// To be called before any model is opened: chooses OpenBLAS' kernels.
  public static func prepare() { BLAS.askForNewKernels() }
}

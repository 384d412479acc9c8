import Glibc
import NibbleCore

/// The memory of training as papers' tables count it, beside what it is.
///
/// Rao, Ahmad and others (Applied Sciences 2025) print for QLoRA on Llama 3 8B with rank 8: weights 3.73 GB, trainable parameters 0.0097, gradients
/// 0.078, optimizer 0.039, together 3.857. Of full training they print four times the weights. Their GB are 2³⁰ bytes.
public struct PublishedMemory: Sendable {
  /// A line of the table, in units of 2³⁰ bytes.
  public struct Line: Sendable {
    public let name: String
    public let published: Double
    /// Digits behind the point as published.
    public let digits: Int
    /// As this program's plan has it.
    public let actual: Double
  }

  public let lines: [Line]
  /// What the published figures leave out or get wrong.
  public let remark: String

  public var total: Double { lines.reduce(0) { $0 + $1.published } }

  public var actualTotal: Double { lines.reduce(0) { $0 + $1.actual } }

  private static let unit = 1073741824.0

  /// - Parameters:
  ///   - parameters: of the whole model
  ///   - trained: numbers that are trained
  ///   - weightBits: of the weights as published: 4, 8, 16 or 32
  ///   - isFull: whether every weight is trained
  ///   - plan: what it really takes
  public init(parameters: Int, trained: Int, weightBits: Int, isFull: Bool, plan: MemoryPlan) {
    func rounded(_ value: Double, _ digits: Int) -> Double {
      let scale = pow(10, Double(digits))
      return (value * scale).rounded() / scale
    }
    // 8 030 261 248 parameters are counted as 8.0 · 10⁹.
    let whole = pow(10, max(0, floor(log10(Double(max(parameters, 1)))) - 1))
    let weights = rounded((Double(parameters) / whole).rounded() * whole * Double(weightBits) / 8 / Self.unit, 2)
    func line(_ name: String, _ published: Double, _ digits: Int, _ actual: Int) -> Line {
      Line(name: name, published: published, digits: digits, actual: Double(actual) / Self.unit)
    }
    let states = plan.moments + plan.paged
    guard !isFull else {
      lines = [
        line("weights", weights, 2, plan.weights + plan.trained), line("gradients", weights, 2, plan.gradients),
        line("optimizer", rounded(2 * weights, 2), 2, states),
      ]
      remark = """
        The published figure is four times the weights. It leaves out the activations; a base that is no float32 is held beside the float32 \
        copy that is trained.
        """
      return
    }
    let gradients = rounded(4 * Double(trained) / Self.unit, 3)
    // The paper keeps adapters in 4 bits and drops the last digit: 0.078 / 8 becomes 0.0097.
    let adapters = (gradients / 8 * 10000 - 1e-9).rounded(.down) / 10000
    lines = [
      line("weights", weights, 2, plan.weights), line("trainable", adapters, 4, plan.trained),
      line("gradients", gradients, 3, plan.gradients), line("optimizer", rounded(gradients / 2, 3), 3, states),
    ]
    remark = """
      The published figure has every tensor in exactly \(weightBits) bits, without scales, though embeddings, norms and head are not packed; \
      adapters in 4 bits, though they are trained in float32; 2 bytes a number for the optimizer, of which AdamW keeps 8; and it leaves out \
      the activations.
      """
  }
}

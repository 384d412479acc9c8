import NibbleCompute
import NibbleCore
import NibbleModels

/// What a pass over the calibration text learns of the matrices of one step: moments, and tokens to measure them with.
final class Stage {
  let moments: Moments
  /// Tokens that were held out: what matrices take in the packed and in the float model, and what the residual stream lacks, where the
  /// outputs are added to it. Rows are multiplied by the roots of their weights.
  private(set) var packed: [Float] = []
  private(set) var float: [Float] = []
  private(set) var residual: [Float] = []
  private(set) var measured = 0
  private(set) var isHeldOut = true
  private(set) var tokens = 0
  private(set) var capped = 0

  /// Whether outputs are added to the residual stream, and moments are taken of what they lack.
  let isAdded: Bool
  /// What outputs are multiplied with on their way into the residual stream, [outputs]; nil for nothing.
  let slopes: [Float]?
  private var inputCap: TokenCap
  private var lackCap: TokenCap

  /// - Parameters:
  ///   - residual: numbers of the outputs where they are added to the residual stream, and their lack is what moments are taken of; nil
  ///     where that is the inputs' own
  ///   - slopes: what these outputs are multiplied with before they are added
  init(inputs: Int, residual: Int?, slopes: [Float]? = nil, cap: Double) {
    moments = Moments(inputs: inputs, lacking: residual ?? inputs)
    (isAdded, self.slopes) = (residual != nil, slopes)
    (inputCap, lackCap) = (TokenCap(times: cap), TokenCap(times: cap))
  }

  /// Factors that make of what the residual stream lacks what outputs lack, [outputs]; nil for 1. Where an output hardly counts in the
  /// stream, it is not to make up for what the stream lacks: below a tenth of the usual slope the factors fall with it.
  var inverseSlopes: [Float]? {
    guard let slopes else { return nil }
    let usual = (slopes.reduce(0.0) { $0 + Double($1) * Double($1) } / Double(max(slopes.count, 1))).squareRoot()
    let least = usual / 10
    return slopes.map { slope in
      guard least > 0 else { return 0 }
      return Float(Double(slope) / max(Double(slope) * Double(slope), least * least))
    }
  }

  /// A batch's tokens.
  struct Rows {
    let count: Int
    /// x̂ and x [count, inputs], each row multiplied with what its outputs are multiplied with; spoiled.
    let packed, float: UnsafeMutablePointer<Float>
    /// What the residual stream lacks, and what it would lack with the float weight [count, outputs]; spoiled.
    var residual, lack: UnsafeMutablePointer<Float>?
    let isHeldOut: Bool
  }

  /// Adds a batch. The first tells what energies are usual, and the last is the one that may be held out.
  func add(_ rows: Rows, isAlsoMeasured: Bool, _ team: Team) {
    let inputs = moments.inputs, lacking = moments.lacking
    var weights = inputCap.weights(rows.packed, rows.count, inputs)
    if let lack = rows.lack { weights = zip(weights, lackCap.weights(lack, rows.count, lacking)).map(min) }
    for start in [rows.packed, rows.float] { TokenCap.scale(start, inputs, by: weights) }
    for start in [rows.residual, rows.lack] { if let start { TokenCap.scale(start, lacking, by: weights) } }
    if rows.isHeldOut || isAlsoMeasured {
      packed += UnsafeBufferPointer(start: rows.packed, count: rows.count * inputs)
      float += UnsafeBufferPointer(start: rows.float, count: rows.count * inputs)
      if let start = rows.residual { residual += UnsafeBufferPointer(start: start, count: rows.count * lacking) }
      measured += rows.count
      isHeldOut = rows.isHeldOut
    }
    guard !rows.isHeldOut else { return }
    tokens += rows.count
    capped += weights.count { $0 < 1 }
    if rows.lack == nil {
      for place in 0..<rows.count * inputs { rows.float[place] -= rows.packed[place] }
    }
    moments.add(rows.packed, lack: rows.lack ?? rows.float, rows: rows.count, weight: weights.reduce(0, +), team)
  }
}

import NibbleCompute
import NibbleCore

/// The order in which error feedback takes the columns of a weight, and the triangular factor that says what later columns are to make up
/// for: with Ĥ the damped moments in that order, (Ĥ + λI)⁻¹ = Uᵀ · U.
struct FeedbackFactor {
  /// Columns by falling diagonal of Ĥ, or as they are.
  let order: [Int]
  /// U [inputs, inputs], zero below its diagonal; what is behind it was given back.
  let factor: FloatStore
  /// λ, as a share of the mean of Ĥ's diagonal.
  let damping: Double
  /// λ, and what a channel that is always zero has on its diagonal before λ.
  private let lambda: Double, dead: Double

  /// Shares of the diagonal's mean that are tried where Ĥ + λI is not positive definite.
  private static let strongest = 1.0

  /// - Parameters:
  ///   - damping: what λ is of the mean of the diagonal
  ///   - keepsOrder: whether columns are taken as they are
  /// - Throws: `.failed` without LAPACK, `.quality` where no damping makes the moments positive definite
  init(_ moments: Moments, damping: Double, keepsOrder: Bool = false, place: MessageText, _ team: Team) throws {
    let count = moments.inputs
    let scale = 1 / max(moments.weight, 1e-30)
    let diagonal = moments.diagonal.map { Double($0) * scale }
    let mean = diagonal.reduce(0, +) / Double(max(count, 1))
    guard mean.isFinite else { throw NibbleError.quality("\(place): the moments of its inputs are not finite") }
    order = keepsOrder ? Array(0..<count) : (0..<count).sorted { (-diagonal[$0], $0) < (-diagonal[$1], $1) }
    // In float64 first, in the memory of twice as many numbers.
    factor = FloatStore(count: 2 * count * count)
    var share = damping
    let raw = UnsafeMutableRawPointer(factor.start)
    dead = mean > 0 ? mean : 0
    while true {
      let matrix = raw.bindMemory(to: Double.self, capacity: count * count)
      Self.fill(matrix, moments, order, scale, mean > 0 ? share * mean : 1, dead: dead, team)
      if try LAPACK.invertCholesky(matrix, count) { break }
      share *= 10
      guard share <= Self.strongest else {
        throw NibbleError.quality("\(place): the moments of its inputs are not positive definite, however much they are damped")
      }
    }
    self.damping = share
    lambda = mean > 0 ? share * mean : 1
    Self.narrow(raw, count)
    factor.giveBack(behind: count * count)
  }

  /// Turns L⁻¹ [count, count], the factor of the reversed matrix, in float64, into U in float32 at the start of the same memory: the whole of
  /// it reversed, which makes it upper triangular.
  private static func narrow(_ raw: UnsafeMutableRawPointer, _ count: Int) {
    for row in 0..<count {
      for column in 0..<count {
        let place = row * count + column
        let value = column > row ? 0 : Float(raw.load(fromByteOffset: 8 * place, as: Double.self))
        raw.storeBytes(of: value, toByteOffset: 4 * place, as: Float.self)
      }
    }
    let numbers = raw.bindMemory(to: Float.self, capacity: 2 * count * count)
    var (first, last) = (0, count * count - 1)
    while first < last {
      (numbers[first], numbers[last]) = (numbers[last], numbers[first])
      (first, last) = (first + 1, last - 1)
    }
  }

  /// Ĥ + λI in reverse order, its lower triangle. A channel that is always zero gets the mean on its diagonal.
  private static func fill(
    _ matrix: UnsafeMutablePointer<Double>, _ moments: Moments, _ order: [Int], _ scale: Double, _ lambda: Double, dead: Double,
    _ team: Team
  ) {
    let count = moments.inputs
    let reversed = Array(order.reversed())
    let (to, from) = (Unchecked(matrix), Unchecked(moments.hessian.start))
    team.split(count, grain: 64) { part, _ in
      for row in part {
        let i = reversed[row]
        for column in 0...row {
          let j = reversed[column]
          to.value[row * count + column] = Double(from.value[min(i, j) * count + max(i, j)]) * scale
        }
        let own = to.value[row * count + row]
        to.value[row * count + row] = (own > 0 ? own : dead) + lambda
      }
    }
  }

  /// Ĥ + λI [inputs, inputs], whole and in the order of the inputs, for descent: it takes the place of the moments' sums.
  func damped(spending moments: Moments, _ team: Team) -> FloatStore {
    let count = moments.inputs, scale = 1 / max(moments.weight, 1e-30)
    let matrix = Unchecked(moments.hessian.start)
    // Rows first, then what lies below the diagonal from them.
    team.split(count, grain: 64) { part, _ in
      for row in part {
        let line = matrix.value + row * count
        for column in row..<count { line[column] = Float(Double(line[column]) * scale) }
        let own = Double(line[row])
        line[row] = Float((own > 0 ? own : dead) + lambda)
      }
    }
    team.split(count, grain: 64) { part, _ in
      for row in part { for column in 0..<row { matrix.value[row * count + column] = matrix.value[column * count + row] } }
    }
    return moments.hessian
  }
}

import NibbleCompute
import NibbleCore
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleCalibration

@Suite("Corrections")
struct CorrectionTests {
  private let team = Team(threads: 2)

  /// E [outputs, inputs] and H [inputs, inputs] of inputs of very different size.
  private func problem(_ outputs: Int, _ inputs: Int, seed: UInt64 = 7) -> (left: FloatStore, hessian: FloatStore) {
    var random = Generator(seed)
    let left = FloatStore((0..<outputs * inputs).map { _ in Float(random.normal()) })
    let tokens = (0..<3 * inputs).map { _ in (0..<inputs).map { Double(random.normal()) * ($0 % 7 == 0 ? 8 : 1) } }
    let hessian = (0..<inputs).flatMap { i in (0..<inputs).map { j in Float(tokens.reduce(0) { $0 + $1[i] * $1[j] } / Double(tokens.count)) } }
    return (left, FloatStore(hessian))
  }

  /// tr((E − B A) H (E − B A)ᵀ)
  private func error(_ left: FloatStore, _ hessian: FloatStore, _ one: Correction?, _ outputs: Int, _ inputs: Int) -> Double {
    let rest = FloatStore(Array(left.values))
    if let one {
      let negative = Correction(module: one.module, a: one.a.map { -$0 }, b: one.b, rank: one.rank, share: one.share)
      for o in 0..<outputs {
        for i in 0..<inputs {
          rest.start[o * inputs + i] += (0..<one.rank).reduce(0) { $0 + negative.b[o * one.rank + $1] * negative.a[$1 * inputs + i] }
        }
      }
    }
    return (0..<outputs).reduce(0.0) { sum, o in
      let row = (0..<inputs).map { Double(rest.start[o * inputs + $0]) }
      return sum + (0..<inputs).reduce(0.0) { sum, i in
        sum + row[i] * (0..<inputs).reduce(0.0) { $0 + Double(hessian.start[i * inputs + $1]) * row[$1] }
      }
    }
  }

  @Test("are the best of their rank by the error of outputs", arguments: [1, 4, 12], [(24, 40), (40, 24)])
  func best(_ rank: Int, _ shape: (outputs: Int, inputs: Int)) throws {
    let (outputs, inputs) = shape, (left, hessian) = problem(outputs, inputs)
    let found = try Correction(module: "m", left, outputs: outputs, inputs: inputs, hessian: hessian, rank: rank, team)
    #expect(found.a.count == rank * inputs && found.b.count == outputs * rank)
    // The eigenvalues of E H Eᵀ beyond the rank.
    var square = [Double](repeating: 0, count: outputs * outputs)
    for i in 0..<outputs {
      for j in 0..<outputs {
        for k in 0..<inputs {
          let part = (0..<inputs).reduce(0.0) { $0 + Double(hessian.start[k * inputs + $1]) * Double(left.start[j * inputs + $1]) }
          square[j * outputs + i] += Double(left.start[i * inputs + k]) * part
        }
      }
    }
    let values = try LAPACK.svd(square, rows: outputs, columns: outputs).s
    let total = error(left, hessian, nil, outputs, inputs), rest = error(left, hessian, found, outputs, inputs)
    #expect(abs(rest - values.dropFirst(rank).reduce(0, +)) < 2e-3 * total)
    #expect(abs(found.share - (1 - rest / total)) < 1e-3)
    // The same from any number of threads.
    let again = try Correction(module: "m", left, outputs: outputs, inputs: inputs, hessian: hessian, rank: rank, Team(threads: 1))
    #expect(again.a == found.a && again.b == found.b)
  }

  @Test("of what leaves nothing, and of ranks beyond the matrix")
  func edges() throws {
    let (left, hessian) = problem(6, 8)
    let whole = try Correction(module: "m", left, outputs: 6, inputs: 8, hessian: hessian, rank: 20, team)
    #expect(whole.rank == 6 && error(left, hessian, whole, 6, 8) < 1e-6 * error(left, hessian, nil, 6, 8))
    let nothing = FloatStore([Float](repeating: 0, count: 48))
    let none = try Correction(module: "m", nothing, outputs: 6, inputs: 8, hessian: hessian, rank: 2, team)
    #expect(none.share == 0 && none.a.allSatisfy { $0 == 0 })
  }
}

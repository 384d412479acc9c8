import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleCalibration

@Suite("Error feedback")
struct ErrorFeedbackTests {
  /// One each time: tests run beside each other, and the loops of a team do not.
  static var team: Team { Team(threads: 2) }

  /// A weight, the tokens it sees, and what its outputs lack.
  struct Problem {
    let outputs: Int, inputs: Int
    let weight: [[Double]], drift: [[Double]], tokens: [[Double]]
    let moments: Moments

    init(outputs: Int, inputs: Int, tokens count: Int = 200, seed: UInt64 = 3) {
      (self.outputs, self.inputs) = (outputs, inputs)
      var random = Generator(seed)
      func rows(_ count: Int, _ width: Int) -> [[Double]] {
        (0..<count).map { _ in (0..<width).map { _ in Double(random.normal()) } }
      }
      weight = rows(outputs, inputs)
      // Inputs that go together, of very different size, one that is always zero.
      let mixing = rows(inputs, inputs)
      let tokens = rows(count, inputs).map { token in
        (0..<inputs).map { j in
          j == 2 ? 0 : (token[j] + 0.6 * (0..<inputs).reduce(0) { $0 + token[$1] * mixing[$1][j] } / Double(inputs).squareRoot())
            * (j % 5 == 0 ? 3 : 1)
        }
      }.map { $0.map { Double(Float($0)) } }
      let lacks = rows(count, outputs).map { $0.map { Double(Float(0.2 * $0)) } }
      drift = (0..<outputs).map { r in
        (0..<inputs).map { j in zip(lacks, tokens).reduce(0) { $0 + $1.0[r] * $1.1[j] } / Double(count) }
      }
      self.tokens = tokens
      moments = Moments(inputs: inputs, lacking: outputs)
      // In two parts: sums go on.
      for part in [0..<count / 3, count / 3..<count] {
        let x = tokens[part].flatMap { $0.map { Float($0) } }, lack = lacks[part].flatMap { $0.map { Float($0) } }
        moments.add(x, lack: lack, rows: part.count, weight: Double(part.count), ErrorFeedbackTests.team)
      }
    }

    var floats: [Float] { weight.flatMap { $0.map { Float($0) } } }
    var driftFloats: [Float] { drift.flatMap { $0.map { Float($0) } } }

    func target(_ factor: FeedbackFactor, strength: Float = 1) -> (values: FloatStore, moved: Double) {
      let move = MovedTarget.move(FloatStore(driftFloats), outputs: outputs, factor, ErrorFeedbackTests.team)
      return MovedTarget.target(FloatStore(floats), move, strength: strength)
    }

    /// - Returns: what chooses codes, and σ and z of each element as the search left them
    func feedback(
      _ codec: any FeedbackCodec, rounds: Int
    ) throws -> (feedback: ErrorFeedback, scale: (Int, Int) -> Double, zero: (Int, Int) -> Double) {
      var values = floats
      let grid = try codec.searchedGrid(&values) { search in
        EncodingTask(
          .f32, [outputs, inputs], place: "test", rules: .nearest, search: search, threads: 2, pool: ScratchPool(), measures: false,
          memory: Scratch())
      }
      let scales = Array(grid.scales), zeros = grid.zeros.map(Array.init), shape = grid.shape
      return (
        ErrorFeedback(codec: codec, outputs: outputs, inputs: inputs, grid: grid, takesRanges: false, rounds: rounds),
        { row, column in Double(scales[shape.block(row, column, of: inputs)]) },
        { row, column in Double(zeros?[shape.block(row, column, of: inputs)] ?? 0) }
      )
    }

    /// What sections decode to.
    func values(_ codec: any WeightCodec, _ sections: [[UInt8]]) throws -> [[Double]] {
      let matrix = try Matrix(DecidedCodes(codec, sections: sections), .f32, rows: outputs, columns: inputs)
      let store = matrix.values()
      return (0..<outputs).map { row in (0..<inputs).map { Double(store.start[row * inputs + $0]) } }
    }
  }

  enum Packing: CaseIterable {
    case nf4, small, fp4, large, zeros, wholeZeros, symmetric, rows, offsets, tiles, tall

    var codec: any FeedbackCodec {
      switch self {
      case .nf4: BlockCodec(.nf4)
      case .small: BlockCodec(.nf4, blockSize: 32)
      case .fp4: BlockCodec(.fp4, blockSize: 32, nested: nil)
      case .large: BlockCodec(.nf4, blockSize: 4096)
      case .zeros: Int4Groups(size: 32)
      case .wholeZeros: Int4Groups(size: 64, zero: .int)
      case .symmetric: Int4Groups(size: 32, scale: .bf16, zero: .none)
      case .rows: Int4Groups(size: 0, scale: .f32, zero: .float)
      case .offsets: Int4Groups(size: 32, scale: .f32, zero: .offset)
      case .tiles: TileBlocks(rows: 4, columns: 8)
      case .tall: TileBlocks(rows: 32, columns: 1, nested: nil)
      }
    }

    /// Whether zeros are numbers that are added.
    var areOffsets: Bool { [.offsets, .tiles, .tall].contains(self) }
    /// Rows to pack: whole tiles, which fill no register.
    var outputs: Int { self == .tiles ? 36 : self == .tall ? 32 : 33 }

    /// Whether rows of so many columns can be packed.
    func takes(_ columns: Int) -> Bool { codec.refusal(.f32, [outputs, columns]) == nil }
  }

  @Test("The factor of the damped moments is that of their inverse, columns by falling energy")
  func factor() throws {
    let problem = Problem(outputs: 3, inputs: 70)
    let oracle = Oracle(problem.tokens, damping: 0.01)
    let factor = try FeedbackFactor(problem.moments, damping: 0.01, place: "test", Self.team)
    #expect(factor.order == oracle.order)
    let inverse = Oracle.inverse(oracle.order.map { a in oracle.order.map { oracle.hessian[a][$0] } })
    let n = 70
    var difference = 0.0, size = 0.0
    for i in 0..<n {
      for j in 0..<n {
        let own = (0...min(i, j)).reduce(0.0) {
          $0 + Double(factor.factor.start[$1 * n + i]) * Double(factor.factor.start[$1 * n + j])
        }
        difference += (own - inverse[i][j]) * (own - inverse[i][j])
        size += inverse[i][j] * inverse[i][j]
      }
    }
    // float32 sums of moments.
    #expect((difference / size).squareRoot() < 1e-4)
  }

  // 70 inputs are no multiple of a block, and more than one group of columns; 33 rows fill no register.
  @Test("Codes are those of the definition", arguments: Packing.allCases, [70, 64])
  func codes(packing: Packing, inputs: Int) throws {
    guard packing.takes(inputs) else { return }
    let codec = packing.codec
    let problem = Problem(outputs: packing.outputs, inputs: inputs)
    let oracle = Oracle(problem.tokens, damping: 0.01)
    let target = oracle.target(problem.weight, drift: problem.drift)
    let (feedback, scale, zero) = try problem.feedback(codec, rounds: 0)
    let levels = codec.levels.map(Double.init)
    func nearest(_ value: Double, _ row: Int, _ column: Int) -> Double {
      let (scale, zero) = (scale(row, column), zero(row, column))
      return levels.map { packing.areOffsets ? scale * $0 + zero : scale * ($0 - zero) }.min { abs($0 - value) < abs($1 - value) } ?? 0
    }
    let wanted = oracle.rounded(target, nearest: nearest)
    let factor = try FeedbackFactor(problem.moments, damping: 0.01, place: "test", Self.team)
    let own = problem.target(factor)
    let values = try problem.values(codec, feedback.codes(of: own.values, factor, damped: factor.damped(spending: problem.moments, Self.team), Self.team))
    // One value near the middle of two may go the other way in float32, and its row goes on from there.
    let rows = zip(values, wanted).count { zip($0, $1).allSatisfy { abs($0 - $1) < 1e-5 } }
    #expect(rows >= packing.outputs - 3)
    let (error, best) = (oracle.error(target, values), oracle.error(target, wanted))
    #expect(abs(error - best) < 0.03 * best)
    let moved = zip(target, problem.weight).reduce(0.0) { $0 + zip($1.0, $1.1).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) } }
    #expect(abs(own.moved - moved) < 1e-3 * moved)
    // What plain rounding of the weight leaves is much more.
    let plain = zip(problem.weight, 0...).map { line, row in
      zip(line, 0...).map { value, column in nearest(value, row, column) }
    }
    #expect(error < 0.7 * oracle.error(target, plain))
  }

  @Test("Descent lowers the error, and says what files can hold", arguments: Packing.allCases, [70, 128])
  func descent(packing: Packing, inputs: Int) throws {
    guard packing.takes(inputs) else { return }
    let codec = packing.codec
    let problem = Problem(outputs: packing.outputs, inputs: inputs)
    let oracle = Oracle(problem.tokens, damping: 0.01)
    let target = oracle.target(problem.weight, drift: problem.drift)
    let factor = try FeedbackFactor(problem.moments, damping: 0.01, place: "test", Self.team)
    let wanted = problem.target(factor).values, damped = factor.damped(spending: problem.moments, Self.team)
    func run(_ rounds: Int, threads: Int = 2) throws -> [[UInt8]] {
      try problem.feedback(codec, rounds: rounds).feedback.codes(
        of: wanted, factor, damped: damped, Team(threads: threads))
    }
    let errors = try [0, 1, 3].map { oracle.error(target, try problem.values(codec, try run($0))) }
    #expect(errors[1] < 0.99 * errors[0])
    #expect(errors[2] <= errors[1])
    #expect(try run(3) == run(3, threads: 1))
    // The codes' own scales and their offset stay; zeros too where they are whole numbers.
    if ![.zeros, .rows].contains(packing), !packing.areOffsets { #expect(try run(0).dropFirst(2) == run(3).dropFirst(2)) }
  }

  @Test("A channel without energy, a block of zeros, no energy at all")
  func nothing() throws {
    var problem = Problem(outputs: 4, inputs: 64)
    let factor = try FeedbackFactor(problem.moments, damping: 0.01, place: "test", Self.team)
    let zeros = [Float](repeating: 0, count: 4 * 64)
    let feedback = try problem.feedback(BlockCodec(.nf4, nested: nil), rounds: 2).feedback
    for row in try problem.values(
      BlockCodec(.nf4, nested: nil),
      ErrorFeedback(
        codec: BlockCodec(.nf4, nested: nil), outputs: 4, inputs: 64,
        grid: BlockScales(BlockCodec(.nf4, nested: nil), [[UInt8](repeating: 0, count: 16)], count: 256), takesRanges: false, rounds: 2
      ).codes(of: FloatStore(zeros), factor, damped: factor.damped(spending: problem.moments, Self.team), Self.team))
    { #expect(row.allSatisfy { $0 == 0 }) }
    let silent = Moments(inputs: 64, lacking: 4)
    silent.add([Float](repeating: 0, count: 640), lack: [Float](repeating: 0, count: 40), rows: 10, weight: 10, Self.team)
    let identity = try FeedbackFactor(silent, damping: 0.01, place: "test", Self.team)
    #expect(
      feedback.codes(of: FloatStore(problem.floats), identity, damped: identity.damped(spending: silent, Self.team), Self.team).count == 2)
    #expect(problem.target(identity, strength: 0).moved == 0)
    problem = Problem(outputs: 4, inputs: 64, seed: 5)
    let broken = Moments(inputs: 64, lacking: 4)
    broken.add([Float](repeating: .nan, count: 640), lack: [Float](repeating: 0, count: 40), rows: 10, weight: 10, Self.team)
    #expect(throws: NibbleError.self) { try FeedbackFactor(broken, damping: 0.01, place: "test", Self.team) }
  }

  /// Codes, scales and zeros of an independent program, which computes in float64.
  @Test("GPTQ of int4 groups is that of the reference")
  func gptq() throws {
    let file = try TensorFile(fixture("gptq.safetensors"))
    func floats(_ name: String) throws -> [Float] { try file.floats(#require(file.tensor(name))) }
    let weight = try floats("W"), tokens = try floats("X")
    let outputs = 12, inputs = 96
    let moments = Moments(inputs: inputs, lacking: 0)
    moments.add(tokens, lack: tokens, rows: tokens.count / inputs, weight: Double(tokens.count / inputs), Self.team)
    let factor = try FeedbackFactor(moments, damping: 0.01, keepsOrder: true, place: "test", Self.team)
    let codec = Int4Groups(size: 32, scale: .f32, zero: .float)
    let feedback = ErrorFeedback(
      codec: codec, outputs: outputs, inputs: inputs, grid: GroupGrid(codec, length: 32, count: outputs * inputs / 32), takesRanges: true,
      rounds: 0)
    let sections = feedback.codes(of: FloatStore(weight), factor, damped: factor.damped(spending: moments, Self.team), Self.team)
    let codes = sections[0].flatMap { [$0 >> 4, $0 & 15] }, wanted = try floats("codes").map { UInt8($0) }
    // One code near the middle of two may go the other way in float32, and its row goes on from there.
    let same = (0..<outputs).count { codes[$0 * inputs..<($0 + 1) * inputs] == wanted[$0 * inputs..<($0 + 1) * inputs] }
    #expect(same >= outputs - 1)
    let scales = try floats("scale"), zeros = try floats("zero")
    let grid = GroupGrid(codec, sections, [outputs, inputs])
    for row in 0..<outputs where codes[row * inputs..<(row + 1) * inputs] == wanted[row * inputs..<(row + 1) * inputs] {
      for group in 3 * row..<3 * row + 3 {
        #expect(abs(grid.scales[group] - scales[group]) <= 1e-5 * scales[group])
        #expect(grid.zeros?[group] == zeros[group])
      }
    }
    func error(_ values: [Float]) -> Double {
      (0..<tokens.count / inputs).reduce(0) { sum, t in
        sum + (0..<outputs).reduce(0) { sum, o in
          let e = (0..<inputs).reduce(0.0) { $0 + Double(tokens[t * inputs + $1]) * Double(values[o * inputs + $1] - weight[o * inputs + $1]) }
          return sum + e * e
        }
      }
    }
    let own = try Matrix(DecidedCodes(codec, sections: sections), .f32, rows: outputs, columns: inputs).values()
    #expect(error(Array(own.values)) < 0.6 * error(try floats("W_rtn")))
  }
}

import NibbleCompute
import NibbleCore

/// An optimizer: what it keeps of a tensor, and how it moves the tensor's numbers. One file each, and a name in `Optimizers.all`.
package protocol OptimizerMethod: Sendable {
  /// For `--optimizer`.
  static var name: String { get }
  /// What other tools call it.
  static var otherNames: [String] { get }
  /// Whether bitsandbytes keeps its states in 8 bits.
  static var hasEightBitStates: Bool { get }
  /// What it takes besides rates and decay: betas, epsilon, momentum.
  static var settings: Set<Setting> { get }
  /// β₂ unless one is asked for.
  static var usualBeta2: Double { get }
  /// Whether its rate is constant after the warm-up, in which the first step has a part of it already.
  static var isScheduleFree: Bool { get }
  /// What it cannot do with these options; nil for nothing.
  static func refusal(_ options: OptimizerOptions) -> MessageText?

  init(_ options: OptimizerOptions)

  /// What it keeps of a tensor of this shape.
  func states(of shape: [Int]) -> [OptimizerState]

  /// Numbers of the whole run that go from step to step.
  var numbers: [Double] { get set }

  /// Begins step `number`, counted from 1.
  ///
  /// - Parameter rate: of the run, before factors of single tensors
  mutating func begin(_ number: Int, rate: Double)

  /// Whether a tensor can be moved piece by piece.
  var isElementwise: Bool { get }

  /// Moves the numbers of a tensor, or of a piece of it.
  func move(_ part: MovedPart, _ step: OptimizerStep, _ team: Team)

  /// Whether the numbers to be used are others than those that are moved.
  var hasAverages: Bool { get }

  /// Makes the numbers that are moved those to be used.
  func average(_ values: UnsafeMutablePointer<Float>, _ states: [StateStore], count: Int)
}

extension OptimizerMethod {
  package static var otherNames: [String] { [] }
  package static var hasEightBitStates: Bool { false }
  package static var settings: Set<Setting> { [] }
  package static var usualBeta2: Double { 0.999 }
  package static var isScheduleFree: Bool { false }
  package static func refusal(_ options: OptimizerOptions) -> MessageText? { nil }
  package var numbers: [Double] {
    get { [] }
    set {}
  }
  package mutating func begin(_ number: Int, rate: Double) {}
  package var isElementwise: Bool { false }
  package var hasAverages: Bool { false }
  package func average(_ values: UnsafeMutablePointer<Float>, _ states: [StateStore], count: Int) {}
}

/// Something an optimizer keeps of a tensor.
package struct OptimizerState: Sendable {
  /// In checkpoints.
  package let name: String
  package let count: Int
  /// Whether it may be kept in 8 bits: the map for that.
  package var map: StateMap?
  /// Whether it begins as the tensor's numbers, not as zeros.
  package var beginsAsValues = false

  package init(_ name: String, _ count: Int, map: StateMap? = nil, beginsAsValues: Bool = false) {
    (self.name, self.count, self.map, self.beginsAsValues) = (name, count, map, beginsAsValues)
  }
}

/// What holds for one tensor in one step.
package struct OptimizerStep: Sendable {
  /// Counted from 1.
  package let number: Int
  package let rate: Double
  package let decay: Double
}

/// A tensor, or a piece of one, that is moved.
package struct MovedPart {
  package let values: UnsafeMutablePointer<Float>
  package let gradient: UnsafeMutablePointer<Float>
  /// Numbers of the piece.
  package let count: Int
  /// Of the whole tensor.
  package let shape: [Int]
  /// Of the whole tensor.
  package let states: [StateStore]
  /// Where the piece begins in the tensor: a multiple of the states' blocks.
  package let first: Int
}

/// An optimizer that moves every number by itself.
package protocol ElementwiseMethod: OptimizerMethod {
  typealias Floats = UnsafeMutablePointer<Float>

  /// Moves `count` numbers.
  ///
  /// - Parameter states: in the order of `states(of:)`
  func move(_ values: Floats, _ gradient: Floats, _ states: [Floats], count: Int, _ step: OptimizerStep)
}

extension ElementwiseMethod {
  package var isElementwise: Bool { true }

  package func move(_ part: MovedPart, _ step: OptimizerStep, _ team: Team) {
    let run = 1 << 14
    team.run(ceilDivide(part.count, run)) { index, scratch in
      let start = index * run, count = min(run, part.count - start)
      if part.states.allSatisfy({ !$0.isEightBit }) {
        let states = part.states.map { $0.floats(from: part.first + start) }
        move(part.values + start, part.gradient + start, states, count: count, step)
      } else {
        moveDecoded(part, start..<start + count, step, scratch)
      }
    }
  }

  /// States become float32 a few blocks at a time, where they stay in the cache.
  private func moveDecoded(_ part: MovedPart, _ range: Range<Int>, _ step: OptimizerStep, _ scratch: Scratch) {
    let run = 8 * StateMap.block
    let states = part.states.indices.map { scratch.floatStart($0, run) }
    for start in stride(from: range.lowerBound, to: range.upperBound, by: run) {
      let count = min(run, range.upperBound - start)
      for (store, floats) in zip(part.states, states) { store.decode(from: part.first + start, count: count, floats) }
      move(part.values + start, part.gradient + start, states, count: count, step)
      for (store, floats) in zip(part.states, states) { store.encode(floats, count: count, at: part.first + start) }
    }
  }
}

import NibbleCompute
import NibbleCore

/// An optimizer at work on tensors, in the order of `Trained.tensors`.
package final class Optimizer {
  package let options: OptimizerOptions
  package let tensors: [TrainedTensor]
  /// Steps taken.
  package var steps = 0
  /// What it is made of in this run.
  package private(set) var method: any OptimizerMethod
  /// What else steps change, by name.
  package var more: [(name: String, values: FloatStore)] = []
  private let team: Team
  private var memory: PagedMemory?
  /// Of each tensor; nothing before the first step.
  private var states: [[StateStore]] = []

  /// Numbers whose states are in memory at once, where they are paged.
  private let window: Int
  private static let usualWindow = 1 << 22

  /// - Parameter window: numbers whose states are in memory at once, where they are paged: a multiple of the states' blocks
  package init(_ options: OptimizerOptions, _ tensors: [TrainedTensor], team: Team, window: Int? = nil) {
    (self.options, self.tensors, self.team, self.window) = (options, tensors, team, window ?? Self.usualWindow)
    method = options.choice.method.init(options)
  }

  /// Bytes of the states of `tensors`.
  package static func stateBytes(_ options: OptimizerOptions, _ tensors: [TrainedTensor]) -> Int {
    let method = options.choice.method.init(options)
    return tensors.reduce(0) { sum, tensor in
      method.states(of: tensor.shape).reduce(sum) { $0 + padded(StateStore.bytes($1, isEightBit: options.choice.isEightBit)) }
    }
  }

  /// Of them, those that are in memory while the states are paged: two windows, and what is on its way to the disk.
  package static func pagedBytes(_ options: OptimizerOptions, _ tensors: [TrainedTensor]) -> Int {
    let method = options.choice.method.init(options)
    let most = tensors.map { tensor in
      let all = method.states(of: tensor.shape).reduce(0) { $0 + StateStore.bytes($1, isEightBit: options.choice.isEightBit) }
      return method.isElementwise ? all / max(1, ceilDivide(tensor.values.count, usualWindow)) : all
    }
    return min(3 * (most.max() ?? 0), stateBytes(options, tensors))
  }

  private static func padded(_ count: Int) -> Int { ceilDivide(count, 64) * 64 }

  /// Makes room for the states, once; the first step does so by itself.
  ///
  /// - Parameter folder: where states lie if they are paged
  /// - Throws: `.cannotWrite` where there is no room
  package func prepare(in folder: String? = nil) throws {
    guard states.isEmpty, !tensors.isEmpty else { return }
    let isEightBit = options.choice.isEightBit
    let folder = options.choice.isPaged ? folder ?? "." : nil
    let memory = try PagedMemory(count: Self.stateBytes(options, tensors), in: folder)
    self.memory = memory
    var offset = 0
    for tensor in tensors {
      var own: [StateStore] = []
      for state in method.states(of: tensor.shape) {
        guard let start = memory.bytes.baseAddress else { continue }
        own.append(StateStore(state, isEightBit: isEightBit, in: start, at: offset))
        offset += Self.padded(StateStore.bytes(state, isEightBit: isEightBit))
        if state.beginsAsValues { own.last?.floats(from: 0).update(from: tensor.values.start, count: state.count) }
      }
      states.append(own)
    }
  }

  package func clearGradients() { for tensor in tensors { tensor.gradient.values.update(repeating: 0) } }

  /// The norm over all gradients; they are scaled down where it is above the maximum.
  ///
  /// - Returns: the norm before clipping
  package func clip() -> Double {
    var square = 0.0
    for tensor in tensors {
      let gradient = tensor.gradient.start
      for i in 0..<tensor.gradient.count { square += Double(gradient[i]) * Double(gradient[i]) }
    }
    let norm = square.squareRoot()
    let factor = options.maximumNorm / (norm + 1e-6)
    if options.maximumNorm > 0, factor < 1 {
      for tensor in tensors { for i in 0..<tensor.gradient.count { tensor.gradient.start[i] *= Float(factor) } }
    }
    return norm
  }

  /// One step at `rate`.
  ///
  /// - Throws: what `prepare` throws
  package func step(rate: Double) throws {
    try prepare()
    steps += 1
    method.begin(steps, rate: rate)
    let windows = windows
    for (number, window) in windows.enumerated() {
      let tensor = tensors[window.tensor], own = states[window.tensor]
      if let memory, memory.isPaged {
        if number == 0 { memory.prefetch(pages(of: window)) }
        if number + 1 < windows.count { memory.prefetch(pages(of: windows[number + 1])) }
      }
      let part = MovedPart(
        values: tensor.values.start + window.range.lowerBound, gradient: tensor.gradient.start + window.range.lowerBound,
        count: window.range.count, shape: tensor.shape, states: own, first: window.range.lowerBound)
      method.move(part, step(of: tensor, rate), team)
      memory?.handBack(pages(of: window))
    }
    memory?.dropWritten()
  }

  private func step(of tensor: TrainedTensor, _ rate: Double) -> OptimizerStep {
    let own = tensor.peakRate.map { rate / options.learningRate * $0 } ?? rate
    return OptimizerStep(
      number: steps, rate: own * (tensor.isSecondFactor ? options.secondFactorRatio : 1),
      decay: tensor.decays ? options.weightDecay : 0)
  }

  private typealias Window = (tensor: Int, range: Range<Int>)

  /// Tensors, or pieces of them where states are paged.
  private var windows: [Window] {
    tensors.indices.flatMap { index -> [Window] in
      let count = tensors[index].values.count
      guard options.choice.isPaged, method.isElementwise else { return [(index, 0..<count)] }
      return stride(from: 0, to: count, by: window).map { (index, $0..<min($0 + window, count)) }
    }
  }

  private func pages(of window: Window) -> [Range<Int>] {
    states[window.tensor].flatMap { $0.ranges(method.isElementwise ? window.range : 0..<$0.state.count) }
  }

  /// Runs `body` while the trained numbers are those to be used: the averages of a method that has some.
  package func averaged<Result>(_ body: () throws -> Result) rethrows -> Result {
    guard method.hasAverages, !states.isEmpty else { return try body() }
    let kept = tensors.map { FloatStore(Array($0.values.values)) }
    for (tensor, own) in zip(tensors, states) { method.average(tensor.values.start, own, count: tensor.values.count) }
    defer { for (tensor, own) in zip(tensors, kept) { tensor.values.start.update(from: own.start, count: own.count) } }
    return try body()
  }

  // MARK: Checkpoints

  /// All numbers that a step changes, by name.
  package func parts() throws -> [OptimizerPart] {
    try prepare()
    return zip(tensors, states).flatMap { tensor, own in
      [OptimizerPart("value/" + tensor.name, .f32, UnsafeMutableRawBufferPointer(tensor.values.values))]
        + own.flatMap { $0.parts(of: tensor.name) }
    } + more.map { OptimizerPart("rule/" + $0.name, .f32, UnsafeMutableRawBufferPointer($0.values.values)) }
  }

  /// Numbers of the whole run.
  package var numbers: [Double] {
    get { method.numbers }
    set { method.numbers = newValue }
  }

  /// Bytes of the states that are in memory now.
  package var residentStates: Int { memory?.resident ?? 0 }
}

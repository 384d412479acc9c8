import NibbleCompute
import NibbleCore

/// What is added to the outputs of a residual block.
enum Shortcut: Sendable {
  /// The block's input.
  case identity
  /// The input after a convolution of its own.
  case unit(ConvolutionUnit)
  /// Every `stride`th position of the input, with as many channels of zeros before as behind: a shortcut without weights ("A" in the
  /// paper of residual networks).
  case padded(stride: Int)
}

/// Units one after another, and a shortcut past them: relu(units(x) + shortcut(x)).
struct ResidualBlock: Sendable {
  var units: [ConvolutionUnit]
  var shortcut: Shortcut

  /// In the order of the pass.
  var all: [ConvolutionUnit] { if case .unit(let unit) = shortcut { units + [unit] } else { units } }

  func after(_ size: Planes.Size) -> Planes.Size { units.reduce(size) { $1.sliding.after($0) } }
  func isTrained(_ gradients: Gradients) -> Bool { all.contains { $0.isTrained(gradients) } }
}

/// The weights of a residual network (He et al., 2015).
struct ResidualWeights: Sendable {
  /// Channels of an image.
  var channels: Int
  var stem: ConvolutionUnit
  /// The greatest of 3 x 3 positions behind the stem, every second one.
  var pool: Sliding?
  var blocks: [ResidualBlock]

  var units: [ConvolutionUnit] { [stem] + blocks.flatMap(\.all) }
}

/// A network of residual blocks. Its states are the positions of the last block.
final class ResidualNetwork: Network, @unchecked Sendable {
  let engine: Engine
  let exact: Engine
  let scratch = Scratch()
  let parts: NetworkParts
  let width: Int
  var head: Head
  private let weights: ResidualWeights

  /// What a pass leaves for its way back.
  private final class Kept {
    var units: [ParameterID: UnitTape] = [:]
    /// What went into the pooling, and the positions its results come from.
    var pooled: Planes?
    var from: [UInt32] = []
    /// What each block gave.
    var outputs: [Planes] = []

    func unit(_ unit: ConvolutionUnit) -> UnitTape {
      if let tape = units[unit.convolution.id] { return tape }
      let tape = UnitTape()
      units[unit.convolution.id] = tape
      return tape
    }
  }

  init(_ weights: ResidualWeights, _ head: Head, _ engine: Engine) {
    (self.weights, self.head, self.engine) = (weights, head, engine)
    exact = Engine(.f32, team: engine.team, variant: engine.variant)
    let units = weights.units
    width = (weights.blocks.last?.units.last ?? weights.stem).convolution.outputs
    parts = NetworkParts(
      layers: units.map(\.convolution), norms: units.map(\.norm.norm), statistics: units.flatMap { [$0.norm.mean, $0.norm.variance] })
  }

  /// What an image of this size is in the end.
  private func after(_ size: Planes.Size) -> Planes.Size {
    let stem = weights.stem.sliding.after(size)
    return weights.blocks.reduce(weights.pool?.after(stem) ?? stem) { $1.after($0) }
  }

  func rows(_ batch: Batch) -> [Int] {
    guard case .images(let images) = batch else { return [] }
    return images.map { after(Planes.Size(height: $0.image.height, width: $0.image.width)).count }
  }

  // MARK: Forward

  func hidden(_ batch: Batch, tape: Tape?) throws -> UnsafePointer<Float> {
    let images = try batch.images
    try checkMemory(images.map(\.image), isKept: tape != nil)
    let pass = UnitPass(network: self, batch: batch, tape: tape)
    let kept = tape?.part { Kept() }
    func run(_ unit: ConvolutionUnit, _ x: Planes) throws -> Planes { try pass.run(unit, x, kept?.unit(unit)) }
    var x = try run(weights.stem, Planes(images.map(\.image), channels: weights.channels))
    if let pool = weights.pool { x = greatest(pool, x, kept) }
    kept?.outputs = []
    for (index, block) in weights.blocks.enumerated() {
      try Interrupt.check()
      let input = x
      for unit in block.units { x = try run(unit, x) }
      add(block.shortcut, try shortcut(block.shortcut, input, run), to: x)
      guard LayerKernels.allFinite(x.start, count: x.values.count) else {
        throw NibbleError.quality("block \(index) gives NaN or infinite states")
      }
      // After the check: a ReLU may make NaN 0.
      engine.team.split(x.values.count, grain: 1 << 15) { part, _ in
        LayerKernels.activate(.relu, x.start + part.lowerBound, count: part.count, x.start + part.lowerBound)
      }
      kept?.outputs.append(x)
    }
    let states = floats(Slot.states, x.values.count)
    states.update(from: x.start, count: x.values.count)
    return UnsafePointer(states)
  }

  private enum Slot { static let states = 2 }

  /// Throws for images so large that their pass takes more than half of the machine's memory: without a size to be resized to, files decide.
  private func checkMemory(_ images: [Image], isKept: Bool) throws {
    guard let largest = images.max(by: { $0.height * $0.width < $1.height * $1.width }) else { return }
    let room = room(PassSize(inputs: isKept ? images.count : 1, length: largest.height * largest.width, threads: 1, checkpointing: false))
    let bytes = 4 * ((isKept ? room.kept : 0) + room.inHand)
    guard bytes > Machine.memory / 2 else { return }
    throw NibbleError.badInput(
      "an image of \(largest.width) x \(largest.height) pixels needs about \(byteText(bytes)) of memory; a preprocessor_config.json makes images smaller")
  }

  private func shortcut(_ shortcut: Shortcut, _ x: Planes, _ run: (ConvolutionUnit, Planes) throws -> Planes) throws -> Planes {
    if case .unit(let unit) = shortcut { try run(unit, x) } else { x }
  }

  /// sum += x, where x is what came past the units.
  private func add(_ shortcut: Shortcut, _ x: Planes, to sum: Planes) {
    if case .padded(let stride) = shortcut {
      forEachPadded(x, sum, stride) { from, to, channels in LayerKernels.add(x.start + from, count: channels, to: sum.start + to) }
    } else {
      engine.team.split(sum.values.count, grain: 1 << 15) { part, _ in
        LayerKernels.add(x.start + part.lowerBound, count: part.count, to: sum.start + part.lowerBound)
      }
    }
  }

  /// Calls `body` with the numbers of each position of the inputs that a padded shortcut takes, and their place in the outputs.
  private func forEachPadded(_ x: Planes, _ sum: Planes, _ stride: Int, _ body: (_ from: Int, _ to: Int, _ channels: Int) -> Void) {
    let before = (sum.channels - x.channels) / 2, (froms, tos) = (x.starts, sum.starts)
    engine.team.run(x.sizes.count) { image, _ in
      let (from, to) = (x.sizes[image], sum.sizes[image])
      for line in 0..<to.height {
        for place in 0..<to.width {
          body(
            froms[image] + (line * stride * from.width + place * stride) * x.channels,
            tos[image] + (line * to.width + place) * sum.channels + before, x.channels)
        }
      }
    }
  }

  private func greatest(_ pool: Sliding, _ x: Planes, _ kept: Kept?) -> Planes {
    let out = Planes(x.sizes.map(pool.after), channels: x.channels)
    let (froms, tos) = (x.starts, out.starts)
    func run(_ from: UnsafeMutablePointer<UInt32>?) {
      engine.team.run(x.sizes.count) { image, _ in
        ImageKernels.greatest(
          pool.windows(x.sizes[image], channels: x.channels), x.start + froms[image], into: out.start + tos[image],
          from: from.map { $0 + tos[image] })
      }
    }
    guard let kept else {
      run(nil)
      return out
    }
    kept.pooled = x
    kept.from = [UInt32](repeating: 0, count: out.values.count)
    kept.from.withUnsafeMutableBufferPointer { run($0.baseAddress) }
    return out
  }

  // MARK: The way back

  func backward(_ batch: Batch, _ gradient: UnsafeMutablePointer<Float>, tape: Tape, _ gradients: Gradients) throws {
    let kept = tape.part { Kept() }
    guard let last = kept.outputs.last else { return }
    let pass = UnitPass(network: self, batch: batch, tape: tape)
    let stemIsTrained = weights.stem.isTrained(gradients)
    let lowest = stemIsTrained ? 0 : weights.blocks.firstIndex { $0.isTrained(gradients) } ?? weights.blocks.count
    var dy = Planes(last.sizes, channels: last.channels)
    dy.start.update(from: gradient, count: dy.values.count)
    for index in weights.blocks.indices.reversed() where index >= lowest {
      try Interrupt.check()
      let block = weights.blocks[index]
      pass.activateBack(dy, kept.outputs[index])
      guard let next = back(block, pass, kept, dy, gradients, goesOn: stemIsTrained || index > lowest) else { return }
      dy = next
      guard LayerKernels.allFinite(dy.start, count: dy.values.count) else {
        throw NibbleError.quality("block \(index) gives NaN or infinite gradients")
      }
    }
    guard stemIsTrained else { return }
    if let pool = weights.pool, let before = kept.pooled { dy = greatestBack(pool, before, kept, dy) }
    _ = pass.back(weights.stem, kept.unit(weights.stem), dy, gradients, goesOn: false)
  }

  /// From the gradient of a block's sum to that of its input; nil where that is not asked for.
  private func back(
    _ block: ResidualBlock, _ pass: UnitPass, _ kept: Kept, _ dy: Planes, _ gradients: Gradients, goesOn: Bool
  ) -> Planes? {
    var past: Planes?
    switch block.shortcut {
    case .identity: past = goesOn ? dy.copy() : nil
    case .unit(let unit): past = pass.back(unit, kept.unit(unit), dy.copy(), gradients, goesOn: goesOn)
    case .padded(let stride):
      guard goesOn, let input = kept.unit(block.units[0]).input else { break }
      let dx = Planes(input.sizes, channels: input.channels)
      dx.values.values.update(repeating: 0)
      forEachPadded(dx, dy, stride) { from, to, channels in LayerKernels.add(dy.start + to, count: channels, to: dx.start + from) }
      past = dx
    }
    var own = dy
    for (place, unit) in block.units.enumerated().reversed() {
      let isNeeded = goesOn || block.units[..<place].contains { $0.isTrained(gradients) }
      guard isNeeded || unit.isTrained(gradients), let next = pass.back(unit, kept.unit(unit), own, gradients, goesOn: isNeeded) else { return nil }
      own = next
    }
    guard let past else { return nil }
    engine.team.split(own.values.count, grain: 1 << 15) { part, _ in
      LayerKernels.add(past.start + part.lowerBound, count: part.count, to: own.start + part.lowerBound)
    }
    return own
  }

  private func greatestBack(_ pool: Sliding, _ before: Planes, _ kept: Kept, _ dy: Planes) -> Planes {
    let dx = Planes(before.sizes, channels: before.channels)
    let (froms, tos) = (before.starts, dy.starts)
    kept.from.withUnsafeBufferPointer { from in
      guard let from = from.baseAddress else { return }
      let positions = Unchecked(from)
      engine.team.run(before.sizes.count) { image, _ in
        let to = dx.start + froms[image]
        to.update(repeating: 0, count: before.sizes[image].count * before.channels)
        ImageKernels.greatestBack(
          pool.windows(before.sizes[image], channels: before.channels), dy.start + tos[image], from: positions.value + tos[image], to: to)
      }
    }
    return dx
  }

  // MARK: Memory

  func room(_ size: PassSize) -> PassRoom {
    // As if images were squares.
    let side = Int(Double(size.length).squareRoot().rounded(.up))
    var (kept, windows, padded, low, sums, scaled, widest) = (0, 0, 0, 0, 0, 0, 0)
    func pass(_ unit: ConvolutionUnit, _ from: Planes.Size) -> Planes.Size {
      let to = unit.sliding.after(from)
      kept += 2 * to.count * unit.convolution.outputs
      let inputs = unit.convolution.inputs, window = unit.sliding.window, edge = 2 * unit.sliding.padding
      if engine.compute != .f32 || size.changed.contains(unit.convolution.id) {
        windows = max(windows, to.count * inputs)
      } else {
        low = max(low, 2 * size.rank * to.count)
        padded = max(padded, (from.height + edge) * (from.width + edge) * inputs / max(window.height * window.width, 1))
        sums = max(sums, DirectConvolution.sums(unit.convolution))
      }
      widest = max(widest, to.count * unit.convolution.outputs, from.count * unit.convolution.inputs / max(unit.sliding.window.height * unit.sliding.window.width, 1))
      if size.scaled.contains(unit.convolution.id) { scaled += to.count * unit.convolution.outputs }
      return to
    }
    var at = pass(weights.stem, Planes.Size(height: side, width: side))
    if let pool = weights.pool {
      at = pool.after(at)
      kept += 2 * at.count * weights.stem.convolution.outputs
    }
    for block in weights.blocks {
      if case .unit(let unit) = block.shortcut { _ = pass(unit, at) }
      for unit in block.units { at = pass(unit, at) }
    }
    return PassRoom(
      // What one pass kept is freed among what the next keeps: memory holds about two of them.
      rows: size.inputs * at.count, kept: size.inputs * (2 * kept + scaled + size.length * weights.channels),
      inHand: size.inputs * (2 * windows + 3 * padded + low + 4 * widest) + sums)
  }
}

extension Planes {
  func copy() -> Planes {
    let other = Planes(sizes, channels: channels)
    other.start.update(from: start, count: values.count)
    return other
  }
}

import NibbleAdapters
import NibbleCompute
import NibbleCore

/// A convolution computed where the images lie, and what a bare pair adds to it: the first factor is a convolution, the second a product of its places.
///
/// Dropout falls on the images, as in PEFT.
struct DirectConvolution {
  let pass: UnitPass
  let layer: Linear
  let segment: Segment
  /// Of each image with its windows.
  private let images: [Windows]
  private let channels: Int
  /// Where an image and its places begin, in positions.
  private let froms, tos: [Int]

  private enum Slot { static let padded = 3, packed = 4, low = 5, dropped = 6, taken = 7, gradients = 8, lowGradient = 9, weights = 10 }
  /// Multiplications worth a thread's while.
  private static let work = 1 << 20
  /// Parts of a batch whose gradients are summed up by themselves: fixed, so that nothing depends on the number of threads; and the most numbers they take.
  private static let parts = (most: 8, numbers: 1 << 23)

  private typealias Floats = UnsafeMutablePointer<Float>

  /// Numbers that weights and the sums of their gradients take at most.
  static func sums(_ layer: Linear) -> Int {
    let weights = layer.inputs * layer.outputs
    return 3 * weights + min(parts.most * weights, max(parts.numbers, weights))
  }

  /// - Returns: nil where windows are taken: products in bf16, single positions, images with different adapters, adapters that do more than add a pair
  init?(_ unit: ConvolutionUnit, _ x: Planes, _ pass: UnitPass, _ segments: [Segment]) {
    self.init(unit, x.sizes, channels: x.channels, pass, segments)
  }

  private init?(_ unit: ConvolutionUnit, _ sizes: [Planes.Size], channels: Int, _ pass: UnitPass, _ segments: [Segment]) {
    layer = unit.convolution
    images = sizes.map { unit.sliding.windows($0, channels: channels) }
    guard pass.network.engine.compute == .f32, layer.bias == nil, segments.count == 1, let segment = segments.first, !images.contains(where: \.areRows),
      !segment.holdsPairs(layer.id), segment.rows(layer.id) == nil, segment.methods(layer.id).allSatisfy({ $0.method.barePair != nil })
    else { return nil }
    (self.pass, self.segment, self.channels) = (pass, segment, channels)
    froms = Self.begins(sizes.map(\.count))
    tos = Self.begins(images.map(\.count))
  }

  /// Where each of some things begins, and where the last ends.
  private static func begins(_ counts: [Int]) -> [Int] { counts.reduce(into: [0]) { $0.append(($0.last ?? 0) + $1) } }

  private var network: any Network { pass.network }
  private var team: Team { network.engine.team }
  private var rows: Int { tos.last ?? 0 }

  private func floats(_ slot: Int, _ count: Int) -> Floats { network.floats(slot, count) }

  private func timed<Result>(_ part: StepClock.Part, _ body: () -> Result) -> Result { pass.tape?.clock.measure(part, body) ?? body() }

  private func convolutions(_ outputs: Int) -> [Convolution] { images.map { Convolution($0, outputs: outputs, variant: network.engine.variant) } }

  // MARK: Parts

  /// Images with zeros around them, and where each begins.
  private struct Padded {
    let start: UnsafeMutablePointer<Float>
    let begins: [Int]
  }

  /// - Parameter x: nil for zeros alone
  private func padded(_ x: UnsafePointer<Float>?, _ slot: Int) -> Padded {
    let all = convolutions(1), begins = Self.begins(all.map(\.paddedCount))
    let start = floats(slot, begins.last ?? 0)
    team.run(all.count) { image, _ in
      guard let x else { return (start + begins[image]).update(repeating: 0, count: all[image].paddedCount) }
      all[image].pad(x + froms[image] * channels, into: start + begins[image])
    }
    return Padded(start: start, begins: begins)
  }

  /// The numbers of a matrix, [outputs, inputs].
  private func numbers(_ matrix: Matrix) -> UnsafePointer<Float> {
    let start = floats(Slot.weights, matrix.outputs * matrix.inputs)
    matrix.rows(0..<matrix.outputs, into: start)
    return UnsafePointer(start)
  }

  /// out = the convolution of all images, [rows, outputs].
  private func apply(_ matrix: Matrix, _ x: Padded, to out: Floats) {
    let all = convolutions(matrix.outputs)
    guard let first = all.first else { return }
    let packed = floats(Slot.packed, first.packedCount)
    first.pack(numbers(matrix), into: packed)
    var parts: [(image: Int, lines: Range<Int>)] = []
    for (image, own) in all.enumerated() {
      let lines = max(1, Self.work / max(own.lineCount * matrix.inputs, 1))
      for line in stride(from: 0, to: own.outHeight, by: lines) { parts.append((image, line..<min(line + lines, own.outHeight))) }
    }
    team.run(parts.count) { index, _ in
      let part = parts[index], own = all[part.image]
      own.apply(
        x.start + x.begins[part.image], packed, lines: part.lines, to: out + tos[part.image] * matrix.outputs + part.lines.lowerBound * own.lineCount)
    }
  }

  /// Adds what dy, [rows, outputs], is for the padded images.
  private func give(_ matrix: Matrix, _ dy: UnsafePointer<Float>, to dx: Padded) {
    let all = convolutions(matrix.outputs)
    guard let first = all.first else { return }
    let packed = floats(Slot.packed, first.packedBackCount)
    first.packBack(numbers(matrix), into: packed)
    team.run(all.count) { image, _ in all[image].give(dy + tos[image] * matrix.outputs, packed, to: dx.start + dx.begins[image]) }
  }

  /// gradient[outputs, inputs] += scale · that of the weights.
  private func addGradient(_ dy: UnsafePointer<Float>, outputs: Int, _ x: Padded, scale: Float = 1, to gradient: Floats) {
    let all = convolutions(outputs)
    guard let first = all.first else { return }
    let count = first.packedCount
    let parts = max(1, min(Self.parts.most, all.count, Self.parts.numbers / max(count, 1))), length = ceilDivide(all.count, parts)
    let sums = floats(Slot.gradients, parts * count)
    team.run(parts) { part, _ in
      let own = sums + part * count
      own.update(repeating: 0, count: count)
      for image in min(part * length, all.count)..<min((part + 1) * length, all.count) {
        all[image].addGradient(x.start + x.begins[image], dy + tos[image] * outputs, to: own)
      }
    }
    for part in 1..<max(parts, 1) { LayerKernels.add(sums + part * count, count: count, to: sums) }
    first.unpack(sums, scale: scale, addingTo: gradient)
  }

  /// dx += what lies within the zeros, of which `dropout` takes its part.
  private func crop(_ x: Padded, _ dropout: Dropout? = nil, to dx: Floats) {
    let all = convolutions(1)
    func add(to out: Floats) {
      team.run(all.count) { image, _ in all[image].crop(x.start + x.begins[image], addingTo: out + froms[image] * channels) }
    }
    guard let dropout else { return add(to: dx) }
    let count = (froms.last ?? 0) * channels, own = floats(Slot.dropped, count)
    own.update(repeating: 0, count: count)
    add(to: own)
    drop(dropout, own, to: own)
    team.split(count, grain: 1 << 15) { part, _ in LayerKernels.add(own + part.lowerBound, count: part.count, to: dx + part.lowerBound) }
  }

  private func drop(_ dropout: Dropout, _ x: UnsafePointer<Float>, to out: Floats) {
    let count = (froms.last ?? 0) * channels
    // One draw serves two numbers.
    team.split(ceilDivide(count, 2), grain: 1 << 12) { pairs, _ in
      let first = 2 * pairs.lowerBound, end = min(2 * pairs.upperBound, count)
      dropout.applied(x + first, count: end - first, layer: layer.id, out + first, from: first)
    }
  }

  /// What a pair takes of the images.
  private func taken(_ x: UnsafePointer<Float>) -> Padded {
    guard let dropout = pass.tape?.dropout else { return padded(x, Slot.taken) }
    let own = floats(Slot.dropped, (froms.last ?? 0) * channels)
    drop(dropout, x, to: own)
    return padded(own, Slot.taken)
  }

  /// scale · the first factor's convolution, [rows, rank].
  private func low(_ pair: LowRankPair, _ taken: Padded, weight: Float) -> Floats {
    let low = floats(Slot.low, rows * pair.rank)
    apply(pair.a, taken, to: low)
    scale(low, by: Float(pair.scale) * weight, pair.rank)
    return low
  }

  private func scale(_ x: Floats, by a: Float, _ width: Int) {
    team.split(rows, grain: max(1, (1 << 15) / max(width, 1))) { part, _ in LayerKernels.scale(x + part.lowerBound * width, by: a, count: part.count * width) }
  }

  // MARK: Forward and back

  /// Numbers of images that are padded together where there is no way back; one image at least.
  static let together = 1 << 22

  /// The convolution of all images, some at a time without a way back; false where windows are taken.
  static func run(_ unit: ConvolutionUnit, _ x: Planes, to sums: Planes, _ pass: UnitPass, _ segments: [Segment]) -> Bool {
    var (first, count) = (0, 0)
    for (image, size) in x.sizes.enumerated() {
      count += size.count * x.channels
      guard image + 1 == x.sizes.count || pass.tape == nil && count >= together else { continue }
      guard let own = DirectConvolution(unit, Array(x.sizes[first...image]), channels: x.channels, pass, segments) else { return false }
      own.run(x.start + x.starts[first], to: sums.start + sums.starts[first])
      (first, count) = (image + 1, 0)
    }
    return true
  }

  /// - Parameter out: [rows, outputs]
  private func run(_ x: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>) {
    timed(.weights) { apply(segment.matrix(layer.id, layer.matrix), padded(x, Slot.padded), to: out) }
    timed(.trained) {
      for (method, weight) in segment.methods(layer.id) {
        guard let pair = method.barePair else { continue }
        let low = low(pair, taken(x), weight: weight)
        network.exact.multiply(low, rows: rows, stride: pair.rank, [.init(pair.b, out, stride: layer.outputs, adds: true)])
      }
    }
  }

  /// - Parameters:
  ///   - x: what `run` took
  ///   - dx: added to; nil where nobody needs it
  func back(_ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, dx: UnsafeMutablePointer<Float>?, _ gradients: Gradients) {
    if let whole = gradients.matrices[layer.id] {
      timed(.trained) { addGradient(dy, outputs: layer.outputs, padded(x, Slot.padded), to: whole.start) }
    }
    if let dx {
      timed(.weights) {
        let to = padded(nil, Slot.padded)
        give(segment.matrix(layer.id, layer.matrix), dy, to: to)
        crop(to, to: dx)
      }
    }
    guard let method = segment.methods(layer.id).first?.method, let pair = method.barePair else { return }
    timed(.trained) {
      let taken = taken(x), low = low(pair, taken, weight: 1), (a, b) = (gradients.methods[layer.id] ?? [:]).ofPair
      if let b {
        network.exact.addWeightGradient(
          dy, stride: layer.outputs, outputs: layer.outputs, low, stride: pair.rank, inputs: pair.rank, rows: rows, to: b)
      }
      let du = floats(Slot.lowGradient, rows * pair.rank)
      network.exact.multiply(dy, rows: rows, stride: layer.outputs, [.init(pair.b.turned, du, stride: pair.rank)])
      scale(du, by: Float(pair.scale), pair.rank)
      if let a { addGradient(du, outputs: pair.rank, taken, to: a) }
      guard let dx else { return }
      let to = padded(nil, Slot.taken)
      give(pair.a, du, to: to)
      crop(to, pass.tape?.dropout, to: dx)
    }
  }
}

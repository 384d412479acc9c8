import NibbleCompute
import NibbleCore

/// A batch norm: numbers of a channel minus their mean, over the root of their variance, times a weight, plus a bias.
///
/// Its mean and variance are the running ones of the checkpoint. Only where they are trained, that is where every weight is, a training
/// pass takes those of the batch and moves the running ones towards them. An adapter leaves both alone: what it learns holds for the base as
/// it is.
struct BatchNorm: Sendable {
  let norm: Norm
  let mean: Vector
  let variance: Vector
  /// As PyTorch's default: a share of the batch's own mean and variance moves the running ones in each pass.
  static let momentum = 0.1
  static let epsilon = 1e-5

  init(_ name: String, channels: Int, _ source: WeightSource) throws {
    norm = try source.norm(name, width: channels, hasBias: true)
    mean = try source.vector(name + ".running_mean", count: channels)
    variance = try source.vector(name + ".running_var", count: channels)
  }
}

/// A convolution, its batch norm, and a ReLU where one follows.
struct ConvolutionUnit: Sendable {
  let convolution: Linear
  let sliding: Sliding
  let norm: BatchNorm
  let isActivated: Bool

  /// - Parameters:
  ///   - names: of the convolution and of the norm
  ///   - size: height and width of the window, odd: padding keeps the image's own
  init(
    _ names: (convolution: String, norm: String), inputs: Int, outputs: Int, size: Int, stride: Int, isActivated: Bool = true,
    _ source: WeightSource
  ) throws {
    convolution = try source.convolution(names.convolution, outputs: outputs, window: [inputs, size, size], bias: .none)
    sliding = Sliding(window: (size, size), stride: stride, padding: size / 2)
    norm = try BatchNorm(names.norm, channels: outputs, source)
    self.isActivated = isActivated
  }

  func isTrained(_ gradients: Gradients) -> Bool { gradients.has(convolution) || gradients.has(norm.norm) }
}

/// What a pass through a unit leaves for its way back.
final class UnitTape {
  /// What the convolution took.
  var input: Planes?
  /// What it gave.
  var sums: Planes?
  /// What the unit gave.
  var output: Planes?
  /// 1 / √(variance + epsilon), and the mean, that were used.
  var inverse: [Float] = []
  var mean: [Float] = []
  /// Whether they are the batch's own.
  var isOfBatch = false
  let linear = LinearTape()
}

/// Passes of units, over one batch.
struct UnitPass {
  let network: any Network
  let batch: Batch
  let tape: Tape?

  private enum Slot { static let windows = 0, windowGradient = 1 }
  /// Rows whose sums one thread makes: fixed, so that nothing depends on the number of threads.
  private static let sumRows = 1024

  private var engine: Engine { network.engine }

  func layers(_ planes: Planes) -> Layers { network.operations(planes.sizes.map(\.count), batch.adapters, tape) }

  // MARK: Windows

  /// The windows of some images, [windows, size]: the images themselves where windows are positions.
  private func windows(_ sliding: Sliding, _ x: Planes, of images: Range<Int>) -> UnsafePointer<Float> {
    let all = x.sizes[images].map { sliding.windows($0, channels: x.channels) }, starts = Array(x.starts[images])
    if all.allSatisfy(\.areRows) { return UnsafePointer(x.start + (starts.first ?? 0)) }
    let out = network.floats(Slot.windows, all.reduce(0) { $0 + $1.count * $1.size })
    var parts: [(image: Int, lines: Range<Int>, to: Int)] = []
    var to = 0
    for (image, own) in all.enumerated() {
      let lines = max(1, (1 << 15) / max(own.outWidth * own.size, 1))
      for first in stride(from: 0, to: own.outHeight, by: lines) {
        parts.append((image, first..<min(first + lines, own.outHeight), to + first * own.outWidth * own.size))
      }
      to += own.count * own.size
    }
    engine.team.run(parts.count) { index, _ in
      let part = parts[index]
      ImageKernels.take(all[part.image], x.start + starts[part.image], lines: part.lines, into: out + part.to)
    }
    return UnsafePointer(out)
  }

  /// Images whose windows of so many inputs are a megabyte or two together; all of them where they are wanted whole.
  private func groups(of sums: Planes, _ inputs: Int, isWhole: Bool) -> [Range<Int>] {
    guard !isWhole, !sums.sizes.isEmpty else { return sums.sizes.isEmpty ? [] : [0..<sums.sizes.count] }
    var groups: [Range<Int>] = []
    var (first, numbers) = (0, 0)
    for (image, size) in sums.sizes.enumerated() {
      numbers += size.count * inputs
      guard numbers >= 1 << 18 || image == sums.sizes.count - 1 else { continue }
      groups.append(first..<image + 1)
      (first, numbers) = (image + 1, 0)
    }
    return groups
  }

  // MARK: A unit

  /// - Throws: `.quality` for a batch that has no variance to normalize by
  func run(_ unit: ConvolutionUnit, _ x: Planes, _ kept: UnitTape?) throws -> Planes {
    let sums = Planes(x.sizes.map(unit.sliding.after), channels: unit.convolution.outputs)
    let layers = layers(sums)
    if !DirectConvolution.run(unit, x, to: sums, self, layers.segments) {
      // Without a way back a few images at a time: their windows stay in the cache.
      for images in groups(of: sums, unit.convolution.inputs, isWhole: kept != nil) {
        let first = sums.starts[images.lowerBound] / sums.channels, count = sums.sizes[images].reduce(0) { $0 + $1.count }
        layers.linear(
          [unit.convolution], windows(unit.sliding, x, of: images), rows: first..<first + count, sums.start + first * sums.channels, kept?.linear)
      }
    }
    let out = kept == nil ? sums : Planes(sums.sizes, channels: sums.channels)
    for segment in layers.segments { try normalize(unit, segment, sums, out, kept) }
    if let kept { (kept.input, kept.sums, kept.output) = (x, sums, out) }
    return out
  }

  private func normalize(_ unit: ConvolutionUnit, _ segment: Segment, _ x: Planes, _ out: Planes, _ kept: UnitTape?) throws {
    let channels = x.channels, first = segment.rows.lowerBound * channels
    var mean = Array(UnsafeBufferPointer(start: segment.vector(unit.norm.mean), count: channels))
    var variance = Array(UnsafeBufferPointer(start: segment.vector(unit.norm.variance), count: channels))
    let isOfBatch = tape?.movesStatistics == true
    if isOfBatch { (mean, variance) = try statistics(unit.norm, segment, x.start + first, segment.rows.count, mean, variance) }
    let weight = segment.vector(unit.norm.norm.weight), bias = unit.norm.norm.bias.map { segment.vector($0) }
    let inverse = variance.map { 1 / ($0 + Float(BatchNorm.epsilon)).squareRoot() }
    let scale = (0..<channels).map { inverse[$0] * weight[$0] }
    let shift = (0..<channels).map { (bias?[$0] ?? 0) - mean[$0] * scale[$0] }
    engine.team.split(segment.rows.count, grain: max(1, (1 << 15) / channels)) { part, _ in
      let at = first + part.lowerBound * channels
      ImageKernels.scale(
        x.start + at, rows: part.count, channels: channels, by: scale, shift: shift, isPositive: unit.isActivated, out.start + at)
    }
    if let kept { (kept.mean, kept.inverse, kept.isOfBatch) = (mean, inverse, isOfBatch) }
  }

  /// The mean and the variance of a batch, towards which the running ones move.
  private func statistics(
    _ norm: BatchNorm, _ segment: Segment, _ x: UnsafePointer<Float>, _ rows: Int, _ mean: [Float], _ variance: [Float]
  ) throws -> (mean: [Float], variance: [Float]) {
    guard rows > 1 else { throw NibbleError.quality("a batch norm needs more than one position to find a variance of; use a larger batch") }
    let channels = mean.count, n = Double(rows)
    let sums = channelSums(rows, channels) { first, count, to in
      ImageKernels.addMoments(x + first * channels, rows: count, channels: channels, to: to)
    }
    let own = (0..<channels).map { sums[$0] / n }
    let spread = (0..<channels).map { max(0, sums[channels + $0] / n - own[$0] * own[$0]) }
    let runningMean = UnsafeMutablePointer(mutating: segment.vector(norm.mean))
    let runningVariance = UnsafeMutablePointer(mutating: segment.vector(norm.variance))
    for channel in 0..<channels {
      let share = BatchNorm.momentum
      runningMean[channel] = Float((1 - share) * Double(mean[channel]) + share * own[channel])
      // Of the variance the unbiased estimate.
      runningVariance[channel] = Float((1 - share) * Double(variance[channel]) + share * spread[channel] * n / (n - 1))
    }
    return (own.map { Float($0) }, spread.map { Float($0) })
  }

  /// Two sums a channel over all rows, made in runs of rows and then in order.
  private func channelSums(
    _ rows: Int, _ channels: Int, _ add: (_ first: Int, _ count: Int, UnsafeMutablePointer<Double>) -> Void
  ) -> [Double] {
    let runs = ceilDivide(rows, Self.sumRows)
    var parts = [Double](repeating: 0, count: runs * 2 * channels)
    parts.withUnsafeMutableBufferPointer { buffer in
      guard let start = buffer.baseAddress else { return }
      let to = Unchecked(start)
      engine.team.run(runs) { run, _ in
        let first = run * Self.sumRows
        add(first, min(Self.sumRows, rows - first), to.value + run * 2 * channels)
      }
    }
    return (0..<2 * channels).map { column in (0..<runs).reduce(0) { $0 + parts[$1 * 2 * channels + column] } }
  }

  // MARK: The way back

  /// From the gradient of a unit's output to that of its input.
  ///
  /// - Parameters:
  ///   - dy: spoiled
  ///   - goesOn: whether anything needs the latter
  func back(_ unit: ConvolutionUnit, _ kept: UnitTape, _ dy: Planes, _ gradients: Gradients, goesOn: Bool) -> Planes? {
    guard let input = kept.input, let sums = kept.sums, let output = kept.output else { return nil }
    if unit.isActivated { activateBack(dy, output) }
    normalizeBack(unit, kept, dy, sums, gradients)
    let trained = gradients.has(unit.convolution)
    guard trained || goesOn else { return nil }
    let all = input.sizes.map { unit.sliding.windows($0, channels: input.channels) }
    let areRows = all.allSatisfy(\.areRows)
    let dx = goesOn ? Planes(input.sizes, channels: input.channels) : nil
    let layers = layers(sums)
    if let direct = DirectConvolution(unit, input, self, layers.segments) {
      dx?.values.values.update(repeating: 0)
      direct.back(input.start, dy.start, dx: dx?.start, gradients)
      return dx
    }
    let dWindows = dx.map { areRows ? $0.start : network.floats(Slot.windowGradient, sums.rows * unit.convolution.inputs) }
    // Where nothing is trained in it, nobody looks at what the layer took.
    let taken = trained ? windows(unit.sliding, input, of: 0..<input.sizes.count) : UnsafePointer(dy.start)
    layers.linearBack([unit.convolution], taken, rows: sums.rows, dy.start, dx: dWindows, kept.linear, gradients)
    guard let dx, let dWindows, !areRows else { return dx }
    let starts = input.starts
    let froms = Planes(sums.sizes, channels: unit.convolution.inputs, of: sums.values).starts
    engine.team.run(all.count) { image, _ in
      let to = dx.start + starts[image]
      to.update(repeating: 0, count: input.sizes[image].count * input.channels)
      ImageKernels.give(all[image], dWindows + froms[image], to: to)
    }
    return dx
  }

  /// dy where the output is above 0.
  func activateBack(_ dy: Planes, _ output: Planes) {
    engine.team.split(output.values.count, grain: 1 << 15) { part, _ in
      let at = part.lowerBound
      LayerKernels.activateBack(.relu, dy.start + at, output.start + at, count: part.count, dy.start + at)
    }
  }

  /// dy becomes the gradient of what the convolution gave.
  private func normalizeBack(_ unit: ConvolutionUnit, _ kept: UnitTape, _ dy: Planes, _ x: Planes, _ gradients: Gradients) {
    let channels = x.channels, rows = x.rows, n = Float(max(rows, 1))
    let norm = unit.norm.norm
    let weight = layers(x).segments.first?.vector(norm.weight)
    let a = (0..<channels).map { (weight?[$0] ?? 1) * kept.inverse[$0] }
    var b = [Float](repeating: 0, count: channels), c = b
    if kept.isOfBatch || gradients.has(norm) {
      let sums = channelSums(rows, channels) { first, count, to in
        ImageKernels.addMomentsBack(
          dy.start + first * channels, x.start + first * channels, rows: count, channels: channels, mean: kept.mean, inverse: kept.inverse,
          to: to)
      }
      let db = norm.bias.flatMap { gradients.vectors[$0.id]?.start }, dw = gradients.vectors[norm.weight.id]?.start
      for channel in 0..<channels {
        let (sum, product) = (Float(sums[channel]), Float(sums[channels + channel]))
        db?[channel] += sum
        dw?[channel] += product
        guard kept.isOfBatch else { continue }
        b[channel] = -a[channel] * kept.inverse[channel] * product / n
        c[channel] = -a[channel] * sum / n - b[channel] * kept.mean[channel]
      }
    }
    engine.team.split(rows, grain: max(1, (1 << 15) / channels)) { part, _ in
      let at = part.lowerBound * channels
      ImageKernels.combine(dy.start + at, x.start + at, rows: part.count, channels: channels, a, b, c, dy.start + at)
    }
  }
}

extension Planes {
  /// Others of these sizes, of which only the layout is asked.
  fileprivate init(_ sizes: [Size], channels: Int, of values: FloatStore) {
    (self.sizes, self.channels, self.values) = (sizes, channels, values)
  }
}

import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

extension BitBudget {
  /// Tokens that tensors are measured with.
  public static let tokens = 512

  /// What each packed tensor costs in each way, measured on a text. A tensor is packed one way, NF4 in blocks of 64, and measured; other
  /// ways are taken to cost in proportion to their squared error of the weight.
  ///
  /// - Parameters:
  ///   - job: its packed tensors are those that may be coded otherwise
  ///   - windows: ids as the model takes them; the first `tokens` of them are used
  ///   - palette: what they may be coded with, beside 16 bit
  ///   - names: the tensors that may be coded otherwise
  ///   - progress: called with tensors done and tensors in all
  /// - Throws: `.usage` without any token or for networks that are no transformer, `.quality` where numbers are not finite
  public static func measure(
    _ job: StreamJob, with model: Model, _ windows: [[Int]], _ palette: PackingPalette, names: Set<String>,
    progress: (Int, Int) -> Void = { _, _ in }
  ) throws -> [Tensor] {
    let transformer = try model.transformer
    let targets = job.targets(of: transformer).filter { names.contains($0.value.name) }
    let sensitivity = try Sensitivity(model, CalibrationText.first(tokens, of: windows))
    var tensors: [Tensor] = []
    let pool = ScratchPool()
    for (layer, weights) in transformer.weights.layers.enumerated() {
      for linear in weights.linears {
        guard let target = targets[linear.id] else { continue }
        try Interrupt.check()
        let isMLP = linear.id == weights.down.id || weights.up.contains { $0.id == linear.id }
        let values = linear.matrix.values(), shape = [linear.outputs, linear.inputs]
        func packed(_ codec: any WeightCodec) throws -> Matrix {
          let task = EncodingTask(
            target.dtype, shape, place: target.place, rules: job.rules, search: .mse, threads: model.team.threads, pool: pool, measures: false,
            memory: Scratch())
          return try Matrix(codec.encoded(values.start, task), target.dtype, rows: shape[0], columns: shape[1])
        }
        let reference = try packed(BlockCodec(.nf4))
        let cost = try sensitivity.cost(half: 2 * layer + (isMLP ? 1 : 0), linear.id, reference).value
        // NaN would look like no gain, and the tensor would get the fewest bits.
        guard cost.isFinite else { throw NibbleError.quality("\(target.place): what packing it costs is not finite") }
        let error = squaredError(values, reference)
        var choices = try palette.codecs(target.dtype).compactMap { rule, codec -> Choice? in
          guard codec.refusal(target.dtype, shape) == nil else { return nil }
          let own = squaredError(values, try packed(codec))
          return Choice(
            codec: rule, bytes: WeightEncoding(codec).storedBytes(target.dtype, shape), cost: error > 0 ? cost * own / error : 0)
        }
        choices.append(Choice(codec: "keep", bytes: values.count * target.dtype.bitWidth / 8, cost: 0))
        tensors.append(Tensor(name: target.name, elements: values.count, choices: choices))
        progress(tensors.count, targets.count)
      }
    }
    guard !tensors.isEmpty else { throw NibbleError.usage("\(path: job.source.path): the model's layers have no tensor that is packed") }
    return tensors
  }

  /// ‖W − Q‖²
  private static func squaredError(_ values: FloatStore, _ packed: Matrix) -> Double {
    let own = packed.values()
    var difference = Difference()
    difference.add(values.start, own.start, count: values.count)
    return difference.squaredDifference
  }
}

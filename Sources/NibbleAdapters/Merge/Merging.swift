import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

/// What one tensor gets from the adapters of a merge.
struct Merging: Sendable {
  /// A module of an adapter, and how much of it.
  struct Part: Sendable {
    let file: AdapterFile
    let module: AdapterFile.AdaptedModule
    let weight: Double
  }

  /// What becomes of several parts.
  enum Combination {
    case sum
    /// Of factors instead of deltas.
    case factors(FactorCombination)
    /// The sum cut to a rank.
    case svd(rank: Int)
  }

  var parts: [Part] = []
  var combination = Combination.sum
  /// Whether the model's own tensor is [inputs, outputs]: Conv1D and embeddings.
  var isInputsFirst = false

  /// Whether rows of tokens may be trained beside the factors: those of a head that shares the embedding's are the weight under them.
  var takesRows: Bool { !isInputsFirst && parts.allSatisfy { $0.module.magnitude == nil && !$0.module.isConvolution } }

  /// The change of `item`'s tensor.
  ///
  /// - Throws: `.badInput` for factors that are no plain numbers
  func change(_ item: StreamJob.Item) throws -> any TensorChange {
    let source = item.replacement ?? item.source
    let isReadTransposed = source.isPacked ? source.isTransposed : item.target.isTransposed
    let rowsAreOutputs = isInputsFirst == isReadTransposed
    let factors = try factors()
    let rank = factors.reduce(0) { $0 + $1.rank }
    guard let first = parts.first else { throw NibbleError.usage("nothing to merge into \(subject: item.source.name.text)") }
    let inputs = first.module.inputs, outputs = first.module.outputs
    let (rows, columns) = rowsAreOutputs ? (outputs, inputs) : (inputs, outputs)
    let left = FloatStore(count: rows * rank), right = FloatStore(count: rank * columns)
    var change = LowRankChange(left: left, right: right, columns: columns, rank: rank)
    var gain: FloatStore?
    var at = 0
    for part in factors {
      var scales = [Double](repeating: part.scale, count: outputs)
      if let module = part.dora {
        let ratios = try norms(module, source, item, rowsAreOutputs)
        let all = gain ?? FloatStore([Float](repeating: 0, count: outputs))
        for output in 0..<outputs {
          scales[output] = part.scale * ratios[output]
          all.start[output] += Float(module.weight * (ratios[output] - 1))
        }
        gain = all
      }
      // Scales of outputs are folded into B, which is [outputs, r]; A is [r, inputs].
      let r = part.rank
      for k in 0..<r {
        if rowsAreOutputs {
          for output in 0..<outputs {
            left.start[output * rank + at + k] = Float(scales[output] * Double(part.b[output * r + k]))
          }
          for input in 0..<inputs { right.start[(at + k) * columns + input] = part.a[k * inputs + input] }
        } else {
          for input in 0..<inputs { left.start[input * rank + at + k] = part.a[k * inputs + input] }
          for output in 0..<outputs {
            right.start[(at + k) * columns + output] = Float(scales[output] * Double(part.b[output * r + k]))
          }
        }
      }
      at += r
    }
    change.gain = gain
    (change.isGainByColumn, change.rowsAreOutputs) = (!rowsAreOutputs, rowsAreOutputs)
    return change
  }

  /// DoRA's m / ‖W + D‖ for each output.
  private func norms(
    _ part: Part, _ source: StoredTensor, _ item: StreamJob.Item, _ rowsAreOutputs: Bool
  ) throws -> [Double] {
    guard let magnitude = part.module.magnitude else { return [] }
    let alone = Merging(
      parts: [Part(file: part.file, module: part.module.withoutMagnitude, weight: 1)], isInputsFirst: isInputsFirst)
    let change = try alone.change(item)
    let (inputs, outputs) = (part.module.inputs, part.module.outputs)
    var squares = [Double](repeating: 0, count: outputs)
    let transposing = !source.isPacked && item.target.isTransposed != source.isTransposed
    try source.forEachValues(transposing: transposing) { start, values, count, scratch in
      let delta = scratch.floatStart(ChangeSlot.first, count)
      change.delta(values, start, count, into: delta, scratch)
      for index in 0..<count {
        let value = Double(values[index] + delta[index])
        squares[rowsAreOutputs ? (start + index) / inputs : (start + index) % outputs] += value * value
      }
    }
    let m = try part.file.mapped.floats(magnitude)
    return zip(m, squares).map { Double($0) / $1.squareRoot() }
  }
}

extension AdapterFile.AdaptedModule {
  var withoutMagnitude: Self {
    var module = self
    module.magnitude = nil
    return module
  }
}

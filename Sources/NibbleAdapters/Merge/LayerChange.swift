import NibbleCompute
import NibbleCore
import NibbleFormats

/// Δ of methods that change what a layer takes, or add more to its product than pairs: beside what `LowRankChange` makes of pairs and
/// scales, Σ weight · s ∘ (W · Mᵀ − W + K).
struct LayerChange: TensorChange {
  /// What one adapter has part in it.
  struct Part {
    /// W · Mᵀ in place of W.
    var input: (any InputChange)?
    /// K
    var term: (any LayerTerm)?
    /// s, [outputs]; nil for 1.
    var scales: [Double]?
    /// How much of the whole is taken.
    var weight = 1.0

    /// Whether there is nothing of it.
    var isEmpty: Bool { input == nil && term == nil }

    func weight(_ output: Int) -> Float { Float(weight * (scales?[output] ?? 1)) }
  }

  let pairs: LowRankChange
  let parts: [Part]
  let inputs: Int
  let outputs: Int
  /// Whether elements are stored [outputs, inputs].
  let rowsAreOutputs: Bool

  private var columns: Int { rowsAreOutputs ? inputs : outputs }

  /// Rows of inputs have what is changed together apart: all of the tensor comes at once then.
  var grain: Int {
    let own = parts.reduce(1) { leastCommonMultiple($0, $1.input?.grain ?? 1) }
    return rowsAreOutputs || own == 1 ? own : inputs * outputs
  }

  func delta(
    _ values: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _ scratch: Scratch
  ) {
    pairs.delta(values, start, count, into: delta)
    let own = scratch.floatStart(ChangeSlot.first, max(columns, inputs))
    for part in parts where !part.isEmpty {
      if !rowsAreOutputs, let input = part.input, input.grain > 1 {
        addTurned(input, part, values, to: delta, own, scratch.floatStart(ChangeSlot.first + 1, inputs))
      }
      var done = 0
      while done < count {
        let (row, column) = (start + done).quotientAndRemainder(dividingBy: columns)
        let run = column..<min(columns, column + count - done)
        own.update(repeating: 0, count: run.count)
        if let input = part.input { change(values + done, row, run, input, into: own) }
        part.term?.addRow(row, run, turned: !rowsAreOutputs, to: own)
        for place in 0..<run.count {
          delta[done + place] += part.weight(rowsAreOutputs ? row : column + place) * own[place]
        }
        done += run.count
      }
    }
  }

  /// W · Mᵀ − W of a run of one stored row.
  private func change(
    _ values: UnsafePointer<Float>, _ row: Int, _ run: Range<Int>, _ input: any InputChange, into own: UnsafeMutablePointer<Float>
  ) {
    if rowsAreOutputs {
      input.turnBack(values, run, to: own)
      for place in 0..<run.count { own[place] -= values[place] }
    } else if input.grain == 1 {
      var (one, factor) = (Float(1), Float(0))
      input.turnBack(&one, row..<row + 1, to: &factor)
      for place in 0..<run.count { own[place] = (factor - 1) * values[place] }
    }
  }

  /// The same of a whole tensor that is stored [inputs, outputs].
  private func addTurned(
    _ input: any InputChange, _ part: Part, _ values: UnsafePointer<Float>, to delta: UnsafeMutablePointer<Float>,
    _ own: UnsafeMutablePointer<Float>, _ changed: UnsafeMutablePointer<Float>
  ) {
    for output in 0..<outputs {
      for index in 0..<inputs { own[index] = values[index * outputs + output] }
      input.turnBack(own, 0..<inputs, to: changed)
      for index in 0..<inputs { delta[index * outputs + output] += part.weight(output) * (changed[index] - own[index]) }
    }
  }
}

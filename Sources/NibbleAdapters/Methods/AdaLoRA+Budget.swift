import Glibc
import NibbleCompute
import NibbleCore

extension AdaLoRA {
  static let target = "target_r", first = "tinit", last = "tfinal", interval = "deltaT", total = "total_step"
  static let smoothing = "beta1", uncertainty = "beta2", orthogonality = "orth_reg_weight"

  package static func rule(_ modules: [RuledModule], steps: Int) throws -> (any TrainingRule)? {
    guard let budget = Budget(modules, steps: steps) else { return nil }
    guard budget.begin < budget.end else {
      throw NibbleError.usage(
        "\(key: first) = \(budget.begin) and \(key: last) leave no step of \(budget.steps) to take ranks away in")
    }
    return budget
  }

  /// The ranks of all modules together, which fall from what they begin with to `target_r` for each, and a loss that keeps factors
  /// orthogonal. The importance of a number of E, with its row of A and its column of B, is the smoothed mean of |number · gradient|
  /// times its variation. All as PEFT computes it when its `update_and_allocate` gets the number of steps taken so far.
  private final class Budget: TrainingRule {
    /// A module's part, and both means of its numbers.
    private struct Part {
      let own: RuledModule.Part
      let sensitivity: FloatStore
      let uncertainty: FloatStore

      init?(_ own: RuledModule.Part?) {
        guard let own else { return nil }
        self.own = own
        (sensitivity, uncertainty) = (Self.zeros(own), Self.zeros(own))
      }

      private static func zeros(_ own: RuledModule.Part) -> FloatStore { FloatStore([Float](repeating: 0, count: own.values.count)) }

      func score(_ index: Int) -> Double { Double(sensitivity.start[index] * uncertainty.start[index]) }
    }

    private struct Module {
      let a, e, b: Part
      /// 1 for what is kept, 0 for what was taken away last.
      let kept: FloatStore
      var rank: Int { e.own.values.count }
      var inputs: Int { a.own.shape[1] }
      var outputs: Int { b.own.shape[0] }
      var parts: [Part] { [a, e, b] }
    }

    private let modules: [Module]
    private let settings: MethodSettings
    let steps: Int
    var begin: Int { whole(AdaLoRA.first) }
    var end: Int { steps - whole(AdaLoRA.last) }
    /// Whether ranks were taken away yet; 1 if so.
    private let isCut = FloatStore([0])

    init?(_ modules: [RuledModule], steps: Int) {
      self.modules = modules.compactMap { one in
        guard let a = Part(one.parts[LoRA.first]), let e = Part(one.parts[AdaLoRA.values]), let b = Part(one.parts[LoRA.second])
        else { return nil }
        return Module(a: a, e: e, b: b, kept: FloatStore([Float](repeating: 1, count: e.own.values.count)))
      }
      guard let settings = modules.first?.settings, self.modules.count == modules.count else { return nil }
      self.settings = settings
      let total = Int(settings[AdaLoRA.total] ?? 0)
      self.steps = total > 0 ? total : steps
    }

    private func whole(_ key: String) -> Int { Int(settings[key] ?? 0) }

    // MARK: Orthogonal factors

    /// weight · the mean over all factors of ‖A·Aᵀ − I‖ and ‖Bᵀ·B − I‖, not squared.
    func addLoss() -> Double {
      let weight = settings[AdaLoRA.orthogonality] ?? 0
      guard weight > 0 else { return 0 }
      let each = weight / Double(2 * modules.count)
      return modules.reduce(0) { loss, one in
        loss + each * (add(one.a.own, one.rank, one.inputs, rowsAreVectors: true, each)
          + add(one.b.own, one.rank, one.outputs, rowsAreVectors: false, each))
      }
    }

    /// ‖M‖ of M = A·Aᵀ − I; its gradient is 2 · M · A / ‖M‖.
    private func add(_ part: RuledModule.Part, _ rank: Int, _ length: Int, rowsAreVectors: Bool, _ weight: Double) -> Double {
      func place(_ k: Int, _ i: Int) -> Int { rowsAreVectors ? k * length + i : i * rank + k }
      let values = part.values.start
      var m = SquareMatrix(rank, diagonal: -1)
      for k in 0..<rank {
        for l in 0...k {
          var sum = 0.0
          for i in 0..<length { sum += Double(values[place(k, i)]) * Double(values[place(l, i)]) }
          m[k, l] += sum
          if k != l { m[l, k] = m[k, l] }
        }
      }
      let norm = m.values.reduce(0) { $0 + $1 * $1 }.squareRoot()
      guard norm > 0 else { return 0 }
      for i in 0..<length {
        for k in 0..<rank {
          var sum = 0.0
          for l in 0..<rank { sum += m[k, l] * Double(values[place(l, i)]) }
          part.gradient.start[place(k, i)] += Float(weight * 2 * sum / norm)
        }
      }
      return norm
    }

    // MARK: Ranks

    func stepped(_ step: Int) {
      if step < end {
        updateMeans()
        if step > begin, step % max(whole(AdaLoRA.interval), 1) == 0 { cut(to: budget(step)) }
      } else if step == end {
        cut(to: budget(step))
        for part in modules.flatMap(\.parts) {
          part.sensitivity.values.update(repeating: 0)
          part.uncertainty.values.update(repeating: 0)
        }
      } else if isCut.start[0] == 1 {
        clear()
      }
    }

    private var ranks: Int { modules.reduce(0) { $0 + $1.rank } }

    /// Falls with the third power of what is left of the steps.
    private func budget(_ step: Int) -> Int {
      let goal = whole(AdaLoRA.target) * modules.count
      let left = 1 - Double(step - begin) / Double(max(end - begin, 1))
      return Int(Double(ranks - goal) * pow(left, 3) + Double(goal))
    }

    private func updateMeans() {
      let (b1, b2) = (Float(settings[AdaLoRA.smoothing] ?? 0.85), Float(settings[AdaLoRA.uncertainty] ?? 0.85))
      for part in modules.flatMap(\.parts) {
        let (p, g) = (part.own.values.start, part.own.gradient.start)
        for i in 0..<part.own.values.count {
          let now = abs(p[i] * g[i])
          let mean = b1 * part.sensitivity.start[i] + (1 - b1) * now
          part.sensitivity.start[i] = mean
          part.uncertainty.start[i] = b2 * part.uncertainty.start[i] + (1 - b2) * abs(now - mean)
        }
      }
    }

    /// Of each rank of a module.
    private func scores(_ module: Module) -> [Float] {
      (0..<module.rank).map { k in
        let row = (0..<module.inputs).reduce(0.0) { $0 + module.a.score(k * module.inputs + $1) } / Double(module.inputs)
        let column = (0..<module.outputs).reduce(0.0) { $0 + module.b.score($1 * module.rank + k) } / Double(module.outputs)
        return Float(module.e.score(k) + row + column)
      }
    }

    private func cut(to budget: Int) {
      let scores = modules.map(scores)
      let most = ranks - budget
      guard most > 0 else { return }
      let threshold = scores.joined().sorted()[min(most, ranks) - 1]
      isCut.start[0] = 1
      for (module, own) in zip(modules, scores) {
        for k in 0..<module.rank { module.kept.start[k] = own[k] > threshold ? 1 : 0 }
      }
      clear()
    }

    private func clear() {
      for module in modules { for k in 0..<module.rank where module.kept.start[k] == 0 { module.e.own.values.start[k] = 0 } }
    }

    // MARK: What is kept of it

    var state: [(name: String, values: FloatStore)] {
      [("cut", isCut)]
        + modules.flatMap { module in
          [("kept/" + module.e.own.name, module.kept)]
            + module.parts.flatMap { [("sensitivity/" + $0.own.name, $0.sensitivity), ("uncertainty/" + $0.own.name, $0.uncertainty)] }
        }
    }

    var members: [(String, JSON)] {
      let length = [(AdaLoRA.total, JSON(steps))]
      guard isCut.start[0] == 1 else { return length }
      let masks = modules.map { module in
        (String(module.e.own.name.dropFirst(AdapterFile.prefix.count)), JSON.array(module.kept.values.map { .bool($0 == 1) }))
      }
      return length + [("rank_pattern", .object(masks))]
    }

    func stored(_ name: String, _ shape: [Int], _ values: [Float]) -> (shape: [Int], values: [Float]) {
      guard isCut.start[0] == 1, let module = modules.first(where: { $0.parts.contains { $0.own.name == name } }) else {
        return (shape, values)
      }
      let ranks = (0..<module.rank).filter { module.kept.start[$0] == 1 }
      if name == module.b.own.name {
        return ([shape[0], ranks.count], (0..<shape[0]).flatMap { row in ranks.map { values[row * module.rank + $0] } })
      }
      return ([ranks.count, shape[1]], ranks.flatMap { values[$0 * shape[1]..<($0 + 1) * shape[1]] })
    }
  }
}

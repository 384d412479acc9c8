import NibbleCore
import NibbleTraining

/// Flags of the optimizer and of the schedule as the library takes them.
extension FinetuneCommand {
  /// The optimizer by its name.
  ///
  /// - Throws: `.usage` with the name that was probably meant
  func choice() throws -> OptimizerChoice {
    guard var choice = try OptimizerChoice(named: optimizer) else {
      throw Self.unknown("--optimizer", optimizer, OptimizerChoice.names, "the optimizers are")
    }
    choice.isPaged = choice.isPaged || paged
    return choice
  }

  /// The schedule by its name.
  ///
  /// - Throws: `.usage` with the name that was probably meant, or for a schedule that the optimizer does without
  func schedule() throws -> Schedule.Kind {
    let isFree = try choice().isScheduleFree
    guard let name = lrScheduler else { return isFree ? .constant : .linear }
    guard let kind = Schedule.Kind(named: name) else {
      throw Self.unknown("--lr-scheduler", name, Schedule.Kind.allCases.map(\.rawValue), "the schedules are")
    }
    guard !isFree || kind == .constant else {
      throw NibbleError.usage("--lr-scheduler \(kind.rawValue): \(optimizer) has no schedule but the warm-up; leave it out, or use constant")
    }
    return kind
  }

  private static func unknown(_ flag: String, _ name: String, _ names: [String], _ list: String) -> NibbleError {
    let word = name.lowercased().replacing("_", with: "-")
    let meant = names.first { $0 == Suggestion.of(name.lowercased(), among: names) } ?? Suggestion.of(word, among: names)
    return NibbleError.usage(
      "\(flag) \(quoted(name)) is unknown; " + (meant.map { "did you mean \($0)?" } ?? "\(list) \(names.joined(separator: ", "))"))
  }

  var scheduleShape: Schedule.Shape {
    var shape = Schedule.Shape()
    (shape.cycles, shape.power, shape.end) = (lrCycles, lrPower, lrEnd)
    (shape.decaySteps, shape.decay, shape.least) = (lrDecaySteps, lrDecay, lrLeast)
    return shape
  }

  func optimizerOptions() throws -> OptimizerOptions {
    var options = OptimizerOptions()
    options.choice = try choice()
    options.learningRate = learningRate
    options.rates = try learningRatePattern.map { text in
      let (pattern, number) = try Self.pattern(text, "--learning-rate-pattern")
      guard let rate = Double(number), rate >= 0, rate.isFinite else {
        throw NibbleError.usage("--learning-rate-pattern \(quoted(text)): the part after '=' is not a learning rate")
      }
      return OptimizerOptions.Rate(pattern, rate)
    }
    options.secondFactorRatio = loraplusRatio
    (options.weightDecay, options.noDecay) = (weightDecay, noDecay)
    (options.beta1, options.beta2, options.epsilon) = (beta1, beta2, epsilon)
    (options.momentum, options.maximumNorm) = (momentum, maxGradNorm)
    return options
  }

  /// Flags without effect on this optimizer and schedule.
  func warnIgnoredOfOptimizer() {
    guard let choice = try? choice(), let schedule = try? schedule() else { return }
    if dryRun, choice.isPaged { common.warnIgnored(["--time"], "paged states need the run's folder, which a plan does not make") }
    let settings: [Setting] = [.momentum, .adamBeta1, .adamBeta2, .adamEpsilon]
    common.warnIgnored(settings.filter { !choice.settings.contains($0) }.map(\.flag), "--optimizer is \(choice)")
    let kind = "--lr-scheduler is \(schedule.rawValue)"
    if schedule != .cosineWithRestarts { common.warnIgnored(["--lr-cycles"], kind) }
    if schedule != .polynomial { common.warnIgnored(["--lr-power", "--lr-end"], kind) }
    if schedule != .warmupStableDecay { common.warnIgnored(["--lr-decay-steps", "--lr-decay", "--lr-least"], kind) }
    if weightDecay == 0 { common.warnIgnored(["--no-decay"], "--weight-decay is 0") }
  }
}

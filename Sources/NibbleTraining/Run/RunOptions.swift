import NibbleCore

/// Length, batches, schedule and optimizer of a run.
public struct RunOptions: Sendable, Equatable {
  public var optimizer = OptimizerOptions()
  public var schedule = Schedule.Kind.linear
  public var scheduleShape = Schedule.Shape()
  public var warmupSteps: Int?
  public var warmupRatio = 0.0
  /// nil for as many as the epochs take.
  public var maximumSteps: Int?
  public var epochs = 1.0
  /// Rows of a micro-batch.
  public var batchSize = 8
  /// Micro-batches of a step.
  public var accumulation = 1
  public var shuffles = true
  /// Whether micro-batches have rows of similar length.
  public var groupsByLength = false
  public var seed: UInt64 = 0
  public var checkpointing = false
  /// LoRA's dropout.
  public var dropout = 0.0
  /// Whether packed layers compute with what a merge into their codes would store, so that the merge keeps what is learned.
  public var mergeAware = false
  /// NEFTune: noise on the embeddings of tokens, uniform up to this over the root of a sequence's numbers; 0 for none.
  public var noiseAlpha = 0.0
  /// The share of the targets that is spread evenly over all classes. Validation does not smooth.
  public var labelSmoothing = 0.0
  /// How likely each token that may be hidden is hidden, of models that fill masks.
  public var maskProbability = 0.15
  /// What is made of images before they are learned.
  public var images = ImageAugmentation()

  public init() {}

  /// Steps of a run over so many rows.
  func steps(rows: Int) -> Double {
    maximumSteps.map(Double.init) ?? max(1, (Double(rows) * epochs / (Double(batchSize) * Double(accumulation))).rounded(.up))
  }

  func schedule(steps: Int) -> Schedule {
    let isFree = optimizer.choice.method.isScheduleFree
    var schedule = Schedule(
      isFree ? .constant : schedule, scheduleShape, warmup: warmupSteps ?? Int((warmupRatio * Double(steps)).rounded(.up)), steps: steps,
      peak: optimizer.learningRate)
    schedule.risesFromFirst = isFree
    return schedule
  }
}

import NibbleCore

/// The options that decide what a training run computes.
public struct FinetuneOptions: Sendable {
  public var adapter = AdapterOptions()
  public var run = RunOptions()
  /// Steps between validations; nil for one before the first step and one after the last.
  public var validationSteps: Int?
  /// Steps between checkpoints.
  public var saveSteps = 100
  /// Number of checkpoints to keep, in addition to the best.
  public var savedLimit = 2
  /// Validations without improvement after which the run stops; nil for no limit.
  public var patience: Int?
  /// The figure of validations that decides which is the best; of a loss the least, of any other the greatest.
  public var bestFigure = "loss"
  /// Whether the result with the best validation is written instead of the last; with `patience` it always is.
  public var writesBest = false
  /// Files of a tokenizer with more tokens than the base's, by name: written beside the adapter.
  public var tokenizerFiles: [String: [UInt8]] = [:]
  /// Accepts an initial adapter that was trained on another base.
  public var anyBase = false

  public init() {}
}

import NibbleCore

/// What a job needs where tensors are changed on their way: what becomes of changes that rounding would take, and how to go back.
public struct ChangeStep: Sendable {
  /// What becomes of packed tensors that would lose their change.
  public var whenLost = WhenLost.fail
  /// The least share of its change that a tensor may keep, by what it becomes; nil for any.
  public var minimumSurvival: @Sendable (TensorTarget) -> Double? = { _ in nil }
  /// Where to write a patch that leads from the output back to the source, byte for byte.
  public var undo: String?
  /// Bytes of memory that what is added takes.
  package var memory = 0
  /// What is added, as far as it decides whether a job is the same again.
  package var ingredients = JSON.null
}

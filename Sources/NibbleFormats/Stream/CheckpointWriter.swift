import NibbleCore

/// Takes tensors in the container's order and makes a container of them.
protocol CheckpointWriter: AnyObject {
  /// Writers for the sections of the next target, in the order of its sections.
  func open(_ target: TensorTarget) throws -> [SectionWriter]
  /// Takes note of a tensor whose sections are written.
  func close(_ target: TensorTarget, _ writers: [SectionWriter], _ outcome: TensorOutcome) throws
  /// Brings all that was written to the disk.
  func sync() throws
  /// Whether small files stand before the tensors.
  var takesFilesFirst: Bool { get }
  /// Carries a small file; false if the container has no place for it.
  func carry(_ file: Checkpoint.SmallFile, _ stream: TensorStream) throws -> Bool
  /// What compressing saved; nil where nothing is compressed.
  var compressed: CompressionReport? { get }
  /// Writes what can only be known at the end.
  ///
  /// - Returns: bytes of the whole output
  func finish(identity: Digest128, provenance: JSON?) throws -> Int
}

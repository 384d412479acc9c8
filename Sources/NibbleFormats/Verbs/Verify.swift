import NibbleCore
import NibbleQuant

/// What reading every byte of a checkpoint found.
public struct VerifyReport: Sendable {
  /// Tensors read.
  public var tensors = 0
  /// Plain bytes read.
  public var bytes = 0
  /// Tensors with NaN or infinite values, and how many.
  public var nonfinite: [(name: String, count: Int)] = []
  /// The content identity.
  public var identity = Digest128(high: 0, low: 0)
  /// Things worth telling that are no errors.
  public var warnings: [Warning] = []
}

extension Checkpoint {
  /// Reads every byte and checks it against all the container says: checksums, digests, padding, identity.
  ///
  /// - Throws: `.integrity` naming tensor and section; `.badInput` for files that shrink or change
  public func verify(threads: Int = availableCores, progress: @escaping (Int, Int) -> Void = { _, _ in }) throws -> VerifyReport {
    var report = VerifyReport()
    report.warnings = warnings
    let total = tensors.reduce(0) { $0 + $1.plainBytes } + smallFiles.reduce(0) { $0 + $1.length }
    let stream = TensorStream(threads: threads) { count in
      report.bytes += count
      progress(report.bytes, total)
    }
    for small in smallFiles { try stream.read(try small.section, small.name, XXH3()) }
    var identity = IdentityHasher()
    for tensor in tensors {
      let (digest, values) = try stream.scan(tensor, statistics: tensor.dtype.canBeNonfinite || tensor.isPacked)
      if let values, values.nans + values.infinities > 0 {
        report.nonfinite.append((tensor.name.text, values.nans + values.infinities))
      }
      identity.add(tensor.name, tensor.dtype, tensor.shape, tensor.encoding, digest)
      report.tensors += 1
    }
    report.identity = identity.identity
    try checkPadding()
    if let claimed = claimedIdentity, claimed != report.identity {
      throw NibbleError.integrity("\(path: path): its tensors have the identity \(report.identity), the file says \(claimed)")
    }
    try checkUnchanged()
    return report
  }

  /// The bytes between the sections of a block file are zero. Other containers have none.
  func checkPadding() throws {
    guard container == .nbl, let file = files.first else { return }
    let header = try NblHeader(of: file)
    var end = NblHeader.length + header.tableLength
    // As the file has them: this checkpoint may have been changed in memory.
    let stored = try Checkpoint.openNbl(file)
    let small = try stored.smallFiles.map { try $0.section }
    for section in small + stored.tensors.flatMap(\.sections) {
      guard case .file(_, let offset) = section.source, offset >= end else { continue }
      if let at = try file.bytes(at: end, count: offset - end).firstIndex(where: { $0 != 0 }) {
        throw NibbleError.integrity("\(path: path): byte \(end + at), which is padding, is not zero")
      }
      end = offset + section.storedLength
    }
  }

  /// The content identity, from every byte.
  ///
  /// - Throws: `.integrity` if the container claims another
  public func hash(threads: Int = availableCores, progress: @escaping (Int, Int) -> Void = { _, _ in }) throws -> Digest128 {
    let total = tensors.reduce(0) { $0 + $1.plainBytes }
    var done = 0
    let stream = TensorStream(threads: threads) { count in
      done += count
      progress(done, total)
    }
    var hasher = IdentityHasher()
    for tensor in tensors {
      hasher.add(tensor.name, tensor.dtype, tensor.shape, tensor.encoding, try stream.hash(tensor))
    }
    if let claimed = claimedIdentity, claimed != hasher.identity {
      throw NibbleError.integrity("\(path: path): its tensors have the identity \(hasher.identity), the file says \(claimed)")
    }
    try checkUnchanged()
    return hasher.identity
  }

  /// What the values of each tensor are; nil for types without arithmetic.
  public func statistics(threads: Int = availableCores) throws -> [TensorStatistics?] {
    let stream = TensorStream(threads: threads) { _ in }
    return try tensors.map { try stream.scan($0, statistics: true).values }
  }
}

import NibbleCore
import NibbleQuant

/// What a job has done so far: one line a tensor, written only when all its bytes are on the disk. With it, a job that was killed
/// is taken up behind the last tensor that is there.
///
/// The first line names the job: whatever decides a byte of the output is part of that name.
final class Journal {
  /// Bytes of output between two syncs, and their share of a small output.
  private static let mostBytes = 256 << 20
  private static let smallestShare = 8
  /// Seconds between two syncs where work is slow.
  private static let mostSeconds = 10.0

  private let place: String
  private let file: JournalFile
  private let interval: Int
  /// Tensors of an earlier run that are still to be looked at.
  private var earlier: ArraySlice<[UInt8]>
  private var isGrowing = false
  private var pending: [[UInt8]] = []
  private var pendingBytes = 0
  private var synced = monotonicSeconds()
  /// What did not have to be done again.
  private(set) var taken = StreamReport.Resumed()
  /// Why something had to be done again.
  private(set) var warnings: [Warning] = []

  /// - Parameter expectedBytes: of the output
  init(_ staged: StagedOutput, _ job: Digest128, expectedBytes: Int) throws {
    place = staged.destination
    interval = min(Self.mostBytes, expectedBytes / Self.smallestShare)
    let title = Array("nibble journal 1, job \(job)".utf8)
    let found = try JournalFile(staged.journalPath)
    if found.lines.first == title {
      file = found
      earlier = found.lines.dropFirst()
      count = earlier.count
      return
    }
    if !found.lines.isEmpty {
      warnings.append(
        .init(
          .journal, "\(path: place): what an earlier run left is of another input, other options or another nibble; starting anew"
        ))
    } else if staged.partialBytes > 0 {
      warnings.append(
        .init(.journal, "\(path: place): what an earlier run left has no journal that can be trusted; starting anew"))
    }
    try staged.removePartial()
    file = try JournalFile(staged.journalPath)
    earlier = []
    count = 0
    try file.keep(first: 0)
    try file.append([title])
    isGrowing = true
    try staged.syncNames()
  }

  /// Tensors that are written down.
  private(set) var count: Int

  /// The outcome of the next tensor, if an earlier run wrote it and its bytes are still there.
  func takeOver(_ name: ByteName, _ writers: [SectionWriter]) throws -> TensorOutcome? {
    if let line = earlier.first {
      earlier = earlier.dropFirst()
      if let record = Record(line), record.name == name.text, try zip(writers, record.sections).allSatisfy({ try $0.holds($1) }),
        record.sections.count == writers.count
      {
        for (writer, section) in zip(writers, record.sections) { try writer.takeOver(section) }
        taken.tensors += 1
        taken.bytes += writers.reduce(0) { $0 + $1.storedLength }
        return record.outcome
      }
      warnings.append(
        .init(.journal, "\(path: place): \(tensor: name.text) is not as an earlier run left it; going on from there"))
    }
    if !isGrowing {
      earlier = []
      count = taken.tensors
      try file.keep(first: 1 + count)
      isGrowing = true
    }
    return nil
  }

  /// Takes note of a tensor that was written.
  ///
  /// - Parameter sync: brings all that was written to the disk
  func note(_ name: ByteName, _ writers: [SectionWriter], _ outcome: TensorOutcome, sync: () throws -> Void) throws {
    pending.append(Record(name: name.text, sections: writers.map(\.record), outcome: outcome).line)
    pendingBytes += writers.reduce(0) { $0 + $1.storedLength }
    guard pendingBytes >= interval || monotonicSeconds() - synced >= Self.mostSeconds else { return }
    try sync()
    try writeDown()
  }

  /// Writes down what was noted; all of it must be on the disk.
  func writeDown() throws {
    guard !pending.isEmpty else { return }
    try file.append(pending)
    count += pending.count
    pending = []
    pendingBytes = 0
    synced = monotonicSeconds()
  }
}

extension Journal {
  /// A tensor as a line.
  struct Record {
    var name: String
    var sections: [SectionWriter.Record]
    var outcome: TensorOutcome

    init(name: String, sections: [SectionWriter.Record], outcome: TensorOutcome) {
      self.name = name
      self.sections = sections
      self.outcome = outcome
    }

    /// Numbers are spelled by their bits, so that a summary comes out the same.
    var line: [UInt8] {
      let sums = outcome.change.map { [$0.kept, $0.delta, $0.base, $0.noise, $0.inner, $0.innerDelta] }
      let json: JSON = [
        "tensor": JSON(name), "sections": .array(sections.map(\.json)), "digest": JSON(outcome.digest.description),
        "source": JSON(outcome.sourceDigest.description), "counts": JSON(outcome.counts.all), "error": JSON(outcome.squaredError.map { hexText($0.bitPattern) }),
        "signal": JSON(hexText(outcome.squaredSignal.bitPattern)),
        "change": sums.map { JSON($0.map { hexText($0.bitPattern) }) } ?? .null, "moved": .bool(outcome.isMoved),
      ]
      return Array(json.text().utf8)
    }

    /// nil for a line that is not what `line` writes.
    init?(_ line: [UInt8]) {
      guard let json = try? JSON.parse(line), let name = json["tensor"]?.string,
        let digest = json["digest"]?.string.flatMap(Digest128.init(hex:)),
        let source = json["source"]?.string.flatMap(Digest128.init(hex:)), let signal = Self.double(json["signal"]),
        let counts = (json["counts"]?.array?.compactMap(\.int)).flatMap(EncodeCounts.init)
      else { return nil }
      self.name = name
      sections = (json["sections"]?.array ?? []).compactMap(SectionWriter.Record.init)
      outcome = TensorOutcome(digest: digest, sourceDigest: source)
      outcome.counts = counts
      outcome.squaredError = Self.double(json["error"])
      outcome.squaredSignal = signal
      outcome.isMoved = json["moved"]?.bool ?? false
      if let sums = json["change"]?.array?.compactMap(Self.double), sums.count == 6 {
        var change = ChangeSums(kept: sums[0], delta: sums[1], base: sums[2], noise: sums[3])
        (change.inner, change.innerDelta) = (sums[4], sums[5])
        outcome.change = change
      }
    }

    private static func double(_ json: JSON?) -> Double? {
      json?.string.flatMap { UInt64($0, radix: 16) }.map { Double(bitPattern: $0) }
    }
  }
}

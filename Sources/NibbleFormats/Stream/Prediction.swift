import NibbleCore
import NibbleQuant

/// What a job will take, known before it starts.
public struct Prediction: Sendable {
  /// Bytes of all files written.
  public let outputBytes: Int
  /// Whether `outputBytes` is exact, or the most it can be.
  public let isExact: Bool
  /// Resident memory at its highest.
  public let peakMemory: Int
  /// Threads that are going to work.
  public let threads: Int
}

extension StreamJob {
  /// Threads to work with: as many as asked for and `maximumMemory` allows; 0 if not even one fits.
  var workingThreads: Int {
    guard let limit = maximumMemory else { return max(1, threads) }
    var count = max(1, threads)
    while count > 0, prediction(threads: count).peakMemory > limit { count -= 1 }
    return count
  }

  /// What this job will take, with as many threads as it may use.
  public func prediction() -> Prediction { prediction(threads: max(1, workingThreads)) }

  func prediction(threads: Int) -> Prediction {
    let size = predictedSize
    return Prediction(
      outputBytes: size.bytes, isExact: size.isExact, peakMemory: peakMemory(threads, size.bytes), threads: threads)
  }

  private var predictedSize: (bytes: Int, isExact: Bool) {
    let zero = provenance(Digest128(high: 0, low: 0))
    if output.format == .nbl {
      let table = NblWriter.emptyTable(
        items.map(\.target), source.smallFiles, metadata: source.metadata, provenance: zero)
      return (NblWriter.size(of: table), !output.compression.isOn)
    }
    let record = sideRecord(zero)
    let layout = layout(record)
    let size = layout.size
    if output.isSingleFile { return size }
    let config = writtenConfig(items.map(\.target))
    let small = source.smallFiles.reduce(0) { total, file in
      total + (file.name == "config.json" && config != nil ? config?.fileBytes.count ?? 0 : file.section.plainLength)
    }
    // A model card tells of what is not known yet.
    if card != nil { return (size.bytes + small + (record?.json.fileBytes.count ?? 0) + layout.indexLength + 4096, false) }
    return (size.bytes + small + (record?.json.fileBytes.count ?? 0) + layout.indexLength, size.isExact)
  }

  /// What the program takes before it does anything: its own pages and the libraries'.
  private static let baseMemory = 23 << 19
  /// A thread's stack, its share of the allocator, and what is in its hands besides chunks.
  private static let threadMemory = 3 << 20

  private func peakMemory(_ threads: Int, _ outputBytes: Int) -> Int {
    let chunk = TensorStream.chunkElements
    var perThread = 0
    var perTensor = 0
    for item in items {
      let count = item.source.count
      let width = max(1, item.source.dtype.bitWidth / 8)
      if item.change != nil {
        // Values, the change, their sum, all in float32, beside what is read and written.
        perThread = max(perThread, min(count, 2 * chunk) * (12 + width + item.target.dtype.bitWidth / 8))
        if let codec = item.target.encoding.codec { perTensor = max(perTensor, 25 * codec.blocks(count)) }
        if item.target.encoding == .int8 { perTensor = max(perTensor, 12 * (item.target.shape.first ?? 0)) }
        continue
      }
      switch (item.source.encoding, item.target.encoding) {
      case (.plain, .packed(let codec)):
        let elements = min(count, chunk)
        let transposed = item.source.isTransposed != item.target.isTransposed
        perThread = max(perThread, elements * width * (transposed ? 2 : 1) + elements / 2 + 12 * codec.blocks(elements))
        perTensor = max(perTensor, codec.blocks(count) * (codec.nested == nil ? 12 : 13))
      case (_, .int8) where item.source.encoding != .int8, (.int8, .plain):
        perThread = max(perThread, max(min(count, chunk), item.target.shape.last ?? 0) * 16)
        perTensor = max(perTensor, 8 * (item.target.shape.first ?? 0))
      case (.packed(let codec), .plain):
        let elements = min(count, 2 * chunk)
        perThread = max(perThread, elements / 2 + elements * item.target.dtype.bitWidth / 8)
        let strip = item.source.isTransposed != item.target.isTransposed ? min(item.target.sections[0].length, 64 << 20) : 0
        perTensor = max(perTensor, codec.blocks(count) * 6 + strip)
      case _ where item.source.dtype != item.target.dtype:
        perThread = max(perThread, min(count, 2 * chunk) * (width + item.target.dtype.bitWidth / 8 + 8))
      default:
        perThread = max(perThread, min(item.source.plainBytes, TensorStream.chunkBytes))
      }
    }
    if output.compression.isOn { perThread += 3 << 20 }
    // However many threads are asked for, the cores are what works.
    let busy = items.contains { $0.source.count > chunk } ? min(threads, availableCores) : 1
    // A window for each region that is being filled, and those on their way to the disk.
    let regions = output.format == .nbl ? OutputFile.windowSize : layout(nil).openBytes
    let windows = min(outputBytes, regions + busy * OutputFile.windowSize)
    let tables = items.count * 1200
    return addedMemory + Self.baseMemory + (busy - 1) * Self.threadMemory + busy * perThread + perTensor + windows + tables
  }
}

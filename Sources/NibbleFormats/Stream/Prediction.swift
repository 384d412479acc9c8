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

  private var predictedSize: OutputSize { output.format.container.size(self, provenance(Digest128(high: 0, low: 0))) }

  /// What the program takes before it does anything: its own pages and the libraries'.
  private static let baseMemory = 23 << 19
  /// A thread's stack, its share of the allocator, and what is in its hands besides chunks.
  private static let threadMemory = 3 << 20

  private func peakMemory(_ threads: Int, _ outputBytes: Int) -> Int {
    let chunk = TensorStream.chunkElements
    var perThread = 0
    var perTensor = 0
    // What is read in another order than the file's is mapped.
    var mapped = 0
    // What is put together of other sections is in memory; what is let go of goes back to the system by and by, so up to four times as much was seen.
    var composed = 0
    for item in items where item.leftOut == nil {
      for section in item.source.sections where section.order?.isInPlace == false { mapped = max(mapped, section.storedLength) }
      for case .composed(let bytes) in item.source.sections.map(\.source) { composed = max(composed, 4 * bytes.memory) }
      let count = item.source.count
      let width = max(1, item.source.dtype.bitWidth / 8)
      let (from, to) = (item.source.encoding, item.target.encoding)
      func take(_ memory: CodecMemory) {
        perThread = max(perThread, memory.perThread)
        perTensor = max(perTensor, memory.perTensor)
      }
      if item.change != nil, item.part != nil, let whole = item.whole { composed = max(composed, whole.count * 16) }
      if item.change != nil {
        // Values, the change, their sum, all in float32, beside what is read and written.
        perThread = max(perThread, min(count, 2 * chunk) * (12 + width + item.target.dtype.bitWidth / 8))
        take(to.codec.memory(.changing, item.target.shape, chunk: chunk))
      } else if from == to, item.source.dtype == item.target.dtype {
        perThread = max(perThread, min(item.source.plainBytes, TensorStream.chunkBytes))
      } else if to.isPacked {
        let transposing = item.source.isTransposed != item.target.isTransposed
        take(to.codec.memory(.encoding(item.source.dtype, transposing: transposing), item.target.shape, chunk: chunk))
      } else if from.isPacked {
        var memory = from.codec.memory(.decoding(item.target.dtype), item.source.shape, chunk: chunk)
        if item.source.isTransposed != item.target.isTransposed {
          memory.perTensor += min(item.target.sections[0].length, TensorStream.stripBytes)
        }
        take(memory)
      } else {
        perThread = max(perThread, min(count, 2 * chunk) * (width + item.target.dtype.bitWidth / 8 + 8))
      }
    }
    if output.compression.isOn { perThread += 3 << 20 }
    // However many threads are asked for, the cores are what works.
    let busy = items.contains { $0.source.count > chunk } ? min(threads, availableCores) : 1
    // A window for each region that is being filled, and those on their way to the disk.
    let regions = output.format.container.openBytes(self)
    let windows = min(outputBytes, regions + busy * OutputFile.windowSize)
    let tables = items.count * 1200
    return changing.memory + Self.baseMemory + (busy - 1) * Self.threadMemory + busy * perThread + perTensor + mapped + composed + windows + tables
  }
}

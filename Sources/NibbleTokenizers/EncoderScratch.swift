import NibbleCore

/// What one encoding at a time needs and the next can use again.
final class EncoderScratch {
  var merging = PairMerging()
  var cache = WordCache()
}

/// Scratches waiting for the next encoding; tokenizers are used from many threads.
final class ScratchShelf: @unchecked Sendable {
  private let lock = Lock()
  private var idle: [EncoderScratch] = []

  func use<R>(_ body: (EncoderScratch) throws -> R) rethrows -> R {
    let scratch = lock.hold { idle.popLast() } ?? EncoderScratch()
    defer { lock.hold { if idle.count < 64 { idle.append(scratch) } } }
    return try body(scratch)
  }
}

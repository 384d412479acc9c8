import NibbleCore

/// A run of a tensor's elements, in storage order.
package struct Elements {
  package let start: Int
  package let count: Int
  package let dtype: DType
  package let x: UnsafeMutableRawPointer

  package init(_ x: UnsafeMutableRawPointer, _ dtype: DType, start: Int, count: Int) {
    (self.x, self.dtype, self.start, self.count) = (x, dtype, start, count)
  }
}

/// What an encoder needs to know of its tensor.
package struct EncodingTask: Sendable {
  /// The type of the elements as the output knows them.
  package var dtype: DType
  package var shape: [Int]
  /// File and tensor, for messages.
  package var place: MessageText
  package var rules: EncodingRules
  package var search: ScaleSearch
  /// How offsets of blocks are chosen, where there are any.
  package var offsets = OffsetSearch()
  /// How much each column counts in the search for scales, of several matrices of the same shape one after another; nil where all count
  /// alike. For codecs that have a search with weights.
  package var importance: [Float]?
  /// What decodes the elements' source, where it is packed.
  package var source: (any TensorDecoder)?
  /// Whether the elements are what the source decodes to, in its order.
  package var keepsSource = false
  package var threads: Int
  package var pool: ScratchPool
  /// Whether the error is asked for.
  package var measures: Bool
  /// Where the encoder keeps what it needs for the length of the tensor.
  package var memory: Scratch

  package init(
    _ dtype: DType, _ shape: [Int], place: MessageText, rules: EncodingRules, search: ScaleSearch, offsets: OffsetSearch = .init(),
    threads: Int, pool: ScratchPool, measures: Bool, memory: Scratch
  ) {
    self.offsets = offsets
    (self.dtype, self.shape, self.place, self.rules, self.search) = (dtype, shape, place, rules, search)
    (self.threads, self.pool, self.measures, self.memory) = (threads, pool, measures, memory)
  }

  package var count: Int { elementCount(of: shape) ?? 0 }
}

/// Ways to choose the scale of a block.
public enum ScaleSearch: String, Sendable, CaseIterable {
  /// The scale of a block is its greatest magnitude, as bitsandbytes has it.
  case absmax
  /// The scale with the least squared error.
  case mse
  /// The same among scales of either sign: of the values of NF4 eight are positive and seven negative.
  case mseSigned = "mse-signed"

  /// Whether scales are chosen before codes are, in a pass of its own.
  package var searches: Bool { self != .absmax }
}

/// What encoding did to some elements.
package struct EncodedSums: Sendable {
  /// Σ(x − x′)² and Σx²; nil where nobody measured.
  package var error: Double?
  package var signal = 0.0
  package var counts = EncodeCounts()

  package init(error: Double? = nil, signal: Double = 0, counts: EncodeCounts = EncodeCounts()) {
    (self.error, self.signal, self.counts) = (error, signal, counts)
  }

  package static func += (a: inout EncodedSums, b: EncodedSums) {
    if let error = b.error { a.error = (a.error ?? 0) + error }
    a.signal += b.signal
    a.counts += b.counts
  }
}

/// One tensor on its way into codes, a chunk at a time, on any thread.
///
/// A tensor takes one pass, or two where scales are searched for: `scan` every chunk, `endScan`, `encode` every chunk, `finish`.
/// Every encoder can be scanned without being asked to encode: then it knows its scales, and `restore` tells what a reader would see.
package protocol TensorEncoder: AnyObject, Sendable {
  /// Elements that are encoded together: chunks are multiples of it.
  var grain: Int { get }
  /// Whether chunks must be scanned before they are encoded.
  var needsScan: Bool { get }
  /// Whether what a reader will see of an element is known as soon as its chunk is encoded, without any scan.
  var settlesAtOnce: Bool { get }
  /// The type in which elements are best handed over, where there is a choice.
  var preferredType: DType { get }

  /// Finds the scales of some elements.
  func scan(_ elements: Elements, _ scratch: Scratch) -> EncodeCounts
  /// Settles the scales of all elements.
  func endScan(_ counts: EncodeCounts) throws
  /// Encodes some elements.
  ///
  /// - Parameter restored: gets what a reader will see, where that settles at once
  /// - Returns: the codes, which hold until this thread encodes again
  func encode(
    _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums)
  /// The sections behind the codes, once all elements are encoded.
  ///
  /// - Parameter sums: those of all chunks, completed here
  func finish(_ sums: inout EncodedSums) throws -> [UnsafeRawBufferPointer]
  /// Replaces values by what a reader would see of them.
  func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch)
}

extension TensorEncoder {
  package var grain: Int { 1 }
  package var needsScan: Bool { false }
  package var settlesAtOnce: Bool { true }
  package var preferredType: DType { .f32 }
  package func scan(_ elements: Elements, _ scratch: Scratch) -> EncodeCounts { EncodeCounts() }
  package func endScan(_ counts: EncodeCounts) throws {}
  package func finish(_ sums: inout EncodedSums) throws -> [UnsafeRawBufferPointer] { [] }
}

/// An encoder that chooses codes so that a change survives; `shape` sets how strongly.
package protocol ShapingEncoder: TensorEncoder {
  /// Tried in this order; the first that keeps enough of the change is taken.
  var strengths: [Double] { get }
  /// Chooses how strongly later columns make up for rounding errors.
  func shape(_ strength: Double)
}

/// A packed tensor's scales, ready to decode any run of its codes.
package protocol TensorDecoder: AnyObject, Sendable {
  /// Elements that are decoded together: runs begin at multiples of it.
  var grain: Int { get }
  /// Where in the first section the codes of some elements lie.
  func codes(_ start: Int, _ count: Int) -> Range<Int>
  /// The elements that codes stand for, in F32, F16 or BF16: computed in float32, rounded once.
  func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer)
}

extension TensorDecoder {
  package var grain: Int { 1 }
}

/// Vectors that span the rows of a change. They live as long as the change.
package struct RowSpace: @unchecked Sendable {
  /// Whether rows are read by the layer's input: then they span what the adapter reads.
  package let isOfInputs: Bool
  package let start: UnsafePointer<Float>
  package let rank: Int
  package let columns: Int

  package init(_ start: UnsafePointer<Float>, rank: Int, columns: Int, isOfInputs: Bool) {
    self.isOfInputs = isOfInputs
    self.start = start
    self.rank = rank
    self.columns = columns
  }
}

/// Scratch slots of a thread that encoders use; the stream's own are below.
enum CodecSlot {
  static let moments = 30, codes = 31, half = 32, wide = 33, left = 34, right = 35, absmax = 36
}

import NibbleCompute
import NibbleCore

/// The inputs of one pass, all of one kind, and the adapters that are on for each.
package enum Batch {
  /// Sequences, one after another, without padding, whatever their lengths.
  case tokens([TokenRun])
  case images([ImageRun])

  /// Inputs with the same adapters.
  ///
  /// - Throws: `.badInput` for inputs of both kinds
  package init(_ inputs: [ModelInput], adapters: [ActiveAdapter] = []) throws {
    let images = inputs.compactMap { input in
      if case .image(let image) = input { ImageRun(image, adapters: adapters) } else { nil }
    }
    guard images.isEmpty || images.count == inputs.count else {
      throw NibbleError.badInput("images and texts are in one batch")
    }
    self = images.isEmpty ? .tokens(inputs.map { TokenRun($0.ids, types: $0.types, adapters: adapters) }) : .images(images)
  }

  package var count: Int {
    switch self {
    case .tokens(let runs): runs.count
    case .images(let images): images.count
    }
  }

  package var adapters: [[ActiveAdapter]] {
    switch self {
    case .tokens(let runs): runs.map(\.adapters)
    case .images(let images): images.map(\.adapters)
    }
  }

  /// The same inputs with other adapters.
  package func with(_ adapters: [ActiveAdapter]) -> Batch {
    switch self {
    case .tokens(var runs):
      for index in runs.indices { runs[index].adapters = adapters }
      return .tokens(runs)
    case .images(let images): return .images(images.map { ImageRun($0.image, adapters: adapters) })
    }
  }

  /// Its sequences.
  ///
  /// - Throws: `.usage` for images
  package var runs: [TokenRun] {
    get throws {
      guard case .tokens(let runs) = self else { throw NibbleError.usage("the model takes tokens, the batch has images") }
      return runs
    }
  }

  /// Its images.
  ///
  /// - Throws: `.usage` for tokens
  package var images: [ImageRun] {
    get throws {
      guard case .images(let images) = self else { throw NibbleError.usage("the model takes images, the batch has tokens") }
      return images
    }
  }
}

/// One image of a batch.
package struct ImageRun {
  package var image: Image
  /// Adapters that are on, with their weights.
  package var adapters: [ActiveAdapter]

  package init(_ image: Image, adapters: [ActiveAdapter] = []) { (self.image, self.adapters) = (image, adapters) }
}

/// The new tokens of one sequence of a batch.
package struct TokenRun {
  package var ids: [Int]
  /// What came before, and where these tokens' keys and values go; nil to compute them for this pass only.
  package var cache: KeyValueCache?
  /// Tokens nobody may attend to. Only without a cache.
  package var mask: TokenMask?
  /// BERT's segments, or 0 for tokens an encoder reads and 1 for those its decoder writes; nil for all 0.
  package var types: [Int]?
  /// Adapters that are on, with their weights.
  package var adapters: [ActiveAdapter]

  package init(
    _ ids: [Int], cache: KeyValueCache? = nil, mask: TokenMask? = nil, types: [Int]? = nil, adapters: [ActiveAdapter] = []
  ) {
    self.ids = ids
    self.cache = cache
    self.mask = mask
    self.types = types
    self.adapters = adapters
  }
}

/// Which tokens of a sequence may be attended to, at a fixed address.
package final class TokenMask: @unchecked Sendable {
  private let bytes: UnsafeMutableBufferPointer<UInt8>

  /// nil if every token may.
  package init?(_ visible: [Bool]) {
    guard visible.contains(false) else { return nil }
    bytes = .allocate(capacity: visible.count)
    _ = bytes.initialize(from: visible.map { $0 ? 1 : 0 })
  }

  deinit { bytes.deallocate() }

  /// One byte a token, 0 for those that are hidden.
  package var start: UnsafePointer<UInt8>? { UnsafePointer(bytes.baseAddress) }
  /// Hidden tokens before the first that is visible.
  var leading: Int { bytes.firstIndex { $0 != 0 } ?? bytes.count }
  /// The last visible token.
  var last: Int? { bytes.lastIndex { $0 != 0 } }
  package func isVisible(_ token: Int) -> Bool { bytes.indices.contains(token) && bytes[token] != 0 }
}

/// An adapter in use, and how much of it.
public struct ActiveAdapter {
  package var adapter: AttachedAdapter
  /// What its deltas are multiplied by.
  public var weight: Float

  package init(_ adapter: AttachedAdapter, weight: Float = 1) {
    self.adapter = adapter
    self.weight = weight
  }
}

/// Keys and values of one sequence, by layer: [head, token, number], room growing as tokens come. Or of each token one vector that both are
/// made of (latent attention): it is the key of a single head then, and there are no values.
package final class KeyValueCache: @unchecked Sendable {
  /// Tokens it holds.
  package private(set) var ids: [Int] = []
  package var count: Int { ids.count }
  /// Whether keys were turned as in sequences longer than the trained length (LongRoPE).
  var isLong = false
  /// Of a decoder beside an encoder: what its layers made of the sequence's source.
  var source: SourceKeys?
  private let layers: Int
  /// Whether it has vectors that keys and values are made of.
  private(set) var keepsLatents: Bool
  private var heads: Int
  /// Numbers in a head of keys, and in one of values.
  private var sizes: (keys: Int, values: Int)
  private var capacity = 0
  private var keys: [FloatStore] = []
  private var values: [FloatStore] = []

  /// - Parameter latent: numbers of the vectors it is to keep; nil to keep keys and values
  package init(_ shape: TransformerShape, latent: Int? = nil) {
    layers = shape.layers
    keepsLatents = latent != nil
    heads = latent == nil ? shape.keyValueHeads : 1
    sizes = latent.map { ($0, 0) } ?? (shape.headSize, shape.valueSize)
  }

  /// Makes room for `more` tokens.
  package func reserve(_ more: Int) {
    guard count + more > capacity else { return }
    let wanted = max(count + more, min(2 * capacity, capacity + 1024), 64)
    func grown(_ old: [FloatStore], _ size: Int) -> [FloatStore] {
      (0..<layers).map { layer in
        let store = FloatStore(count: heads * wanted * size)
        if layer < old.count { Self.copy(old[layer], capacity, store, wanted, heads, count, size) }
        return store
      }
    }
    keys = grown(keys, sizes.keys)
    values = grown(values, sizes.values)
    capacity = wanted
  }

  private static func copy(
    _ from: FloatStore, _ fromRoom: Int, _ to: FloatStore, _ toRoom: Int, _ heads: Int, _ count: Int, _ size: Int
  ) {
    for head in 0..<heads {
      (to.start + head * toRoom * size).update(from: from.start + head * fromRoom * size, count: count * size)
    }
  }

  /// Where layer `layer`'s keys and values begin, and the tokens each head has room for. Room was reserved.
  func layer(_ layer: Int) -> (keys: UnsafeMutablePointer<Float>, values: UnsafeMutablePointer<Float>, capacity: Int) {
    (keys[layer].start, values[layer].start, capacity)
  }

  /// Takes note that the keys and values of `new` tokens were written to every layer.
  func advance(_ new: [Int]) { ids += new }

  /// Forgets all but the first `count` tokens.
  package func truncate(to count: Int) { ids.removeLast(max(ids.count - max(count, 0), 0)) }

  /// Takes over what `other` has from token `first` on, behind the tokens both have before it.
  package func append(_ other: KeyValueCache, from first: Int) {
    guard isLong == other.isLong, keepsLatents == other.keepsLatents else { return assign(other) }
    truncate(to: first)
    guard count == first, other.count > first else { return }
    reserve(other.count - first)
    for layer in 0..<layers {
      for (from, to, size) in [(other.keys[layer], keys[layer], sizes.keys), (other.values[layer], values[layer], sizes.values)] {
        for head in 0..<heads {
          (to.start + (head * capacity + first) * size).update(
            from: from.start + (head * other.capacity + first) * size, count: (other.count - first) * size)
        }
      }
    }
    ids += other.ids[first...]
  }

  /// Becomes what `other` is.
  package func assign(_ other: KeyValueCache) {
    ids = []
    if keepsLatents != other.keepsLatents {
      (keepsLatents, heads, sizes) = (other.keepsLatents, other.heads, other.sizes)
      (keys, values, capacity) = ([], [], 0)
    }
    reserve(other.count)
    (ids, isLong, source) = (other.ids, other.isLong, other.source)
    for layer in 0..<layers where layer < other.keys.count {
      Self.copy(other.keys[layer], other.capacity, keys[layer], capacity, heads, count, sizes.keys)
      Self.copy(other.values[layer], other.capacity, values[layer], capacity, heads, count, sizes.values)
    }
  }

  /// Bytes it takes.
  package var bytes: Int { layers * heads * capacity * (sizes.keys + sizes.values) * 4 + (source?.bytes ?? 0) }
}

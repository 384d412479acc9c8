import NibbleCore
import NibbleQuant

// The second projection of latents is two tensors of llama.cpp's, which multiply on either side of the cached latent: of each head the rows
// for keys, turned, and the rows for values. A job parts it for the file, and a file that is read has it joined again.

extension LlamaCppNames {
  /// A module that is two of llama.cpp's tensors.
  struct Latent: Sendable {
    /// What it is called in a layer, and what its two parts are called on their way.
    let whole: String, keys: String, values: String
  }
}

extension StreamJob {
  /// - Throws: `.badInput` for numbers that are no heads, and shapes that no such heads have
  mutating func partLatents(_ names: LlamaCppNames, _ numbers: HuggingFaceNumbers) throws {
    guard let latent = names.latent else { return }
    var parted: [Item] = []
    for item in items {
      guard let (stem, suffix) = item.source.name.parts(of: latent.whole), suffix == ".weight" else {
        parted.append(item)
        continue
      }
      let plain = try item.source.unpacked, shape = plain.shape
      let heads = Int(try numbers.needed(["num_attention_heads"])), keys = Int(try numbers.needed(["qk_nope_head_dim"]))
      let values = Int(try numbers.needed(["v_head_dim"]))
      let width = plain.dtype.bitWidth / 8
      guard shape.count == 2, heads > 0, keys + values > 0, shape[0] == heads.multipliedReportingOverflow(by: keys + values).partialValue,
        let first = StoredSection(.data, .latentKeys(.init(heads: heads, keys: keys, values: values, rank: shape[1], width: width)), plain.sections),
        let second = StoredSection(.data, .latentValues(.init(heads: heads, keys: keys, values: values, rank: shape[1], width: width)), plain.sections)
      else {
        throw NibbleError.badInput("\(item.source.place) of shape \(item.source.logicalShape) has no \(heads) heads of \(keys) rows for keys and \(values) for values")
      }
      for (name, section, size) in [(latent.keys, first, [heads, shape[1], keys]), (latent.values, second, [heads, values, shape[1]])] {
        var part = Item(StoredTensor(plain.name, plain.dtype, size, sections: [section]), of: item, name: ByteName(stem + name + suffix))
        part.countsWhole = name == latent.keys
        let rows = ComposedBytes.LatentHeads(heads: heads, keys: keys, values: values, rank: shape[1], width: 4)
        part.part = name == latent.keys ? .latentKeys(rows) : .latentValues(rows)
        parted.append(part)
      }
    }
    items = parted
  }
}

extension StoredTensor {
  /// The same out of codes: in the type that they decode to.
  ///
  /// - Throws: `.usage` for what lies transposed
  fileprivate var unpacked: StoredTensor {
    get throws {
      if !isPacked, sections.count == 1 { return self }
      guard !isTransposed else {
        throw NibbleError.usage("\(place) is \(encoding.name) and holds what are two tensors of llama.cpp's: dequantize the model first")
      }
      return try numbers([.f16, .bf16].contains(dtype) ? dtype : .f32)
    }
  }

  fileprivate func numbers(_ type: DType) throws -> StoredTensor {
    guard let composed = ComposedBytes(type, of: self) else { throw NibbleError.badInput("\(place) of \(dtype.rawValue) and shape \(shape) has no numbers") }
    return StoredTensor(name, type, shape, sections: [StoredSection(.data, composed)])
  }
}

/// The projections of latents in a file, on their way to what the model's own files have.
struct GgufLatents {
  private let latent: LlamaCppNames.Latent?
  private var waiting: [String: (keys: StoredTensor?, values: StoredTensor?)] = [:]

  init(_ names: LlamaCppNames) { latent = names.latent }

  /// Takes a tensor.
  ///
  /// - Returns: what it is, or is whole with it; nil for a part whose other is not there yet
  mutating func take(_ tensor: StoredTensor) throws -> StoredTensor? {
    guard let latent else { return tensor }
    for (name, isKeys) in [(latent.keys, true), (latent.values, false)] {
      guard let (stem, suffix) = tensor.name.parts(of: name), suffix == ".weight" else { continue }
      var both = waiting.removeValue(forKey: stem) ?? (nil, nil)
      guard (isKeys ? both.keys : both.values) == nil else { throw NibbleError.badInput("\(tensor.place) is there twice") }
      if isKeys { both.keys = tensor } else { both.values = tensor }
      guard let keys = both.keys, let values = both.values else {
        waiting[stem] = both
        return nil
      }
      return try Self.joined(keys, values, as: ByteName(stem + latent.whole + suffix))
    }
    return tensor
  }

  /// - Throws: `.badInput` where a part is there without the other
  func finish() throws {
    guard let lone = waiting.min(by: { $0.key < $1.key })?.value, let tensor = lone.keys ?? lone.values else { return }
    throw NibbleError.badInput("\(tensor.place) is there without its other part")
  }

  private static func joined(_ keys: StoredTensor, _ values: StoredTensor, as name: ByteName) throws -> StoredTensor {
    // Programs that drop dimensions of one make a matrix of one head.
    func sizes(_ tensor: StoredTensor) -> [Int] { Array(repeating: 1, count: max(0, 3 - tensor.shape.count)) + tensor.shape }
    let (first, second) = (sizes(keys), sizes(values))
    let isAlike = !keys.isPacked && !values.isPacked && keys.dtype == values.dtype
    let parts = try isAlike ? [keys, values] : [keys.numbers(.f32), values.numbers(.f32)]
    guard first.count == 3, second.count == 3, first[0] == second[0], first[1] == second[2],
      let heads = Optional(ComposedBytes.LatentHeads(heads: first[0], keys: first[2], values: second[1], rank: first[1], width: parts[0].dtype.bitWidth / 8)),
      parts[0].sections.count == 1, parts[1].sections.count == 1,
      let section = StoredSection(.data, .latent(heads), [parts[0].sections[0], parts[1].sections[0]])
    else {
      throw NibbleError.badInput("\(keys.place) of shape \(keys.shape) does not go with \(quoted(values.name.text)) of shape \(values.shape)")
    }
    return StoredTensor(name, parts[0].dtype, [first[0] * (first[2] + second[1]), first[1]], sections: [section])
  }
}

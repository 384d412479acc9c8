import NibbleCore
import NibbleQuant

// A family may have one parameter for what are two of llama.cpp's tensors: gpt-oss's experts give a gate's output and another's in turn, Llama 4's
// and Granite 4's MLP first all of the gate. A job parts it for the file, and a file that is read has it joined again.

extension StreamJob {
  /// Parts what llama.cpp's files hold as two tensors, and takes the bits of MXFP4 for ggml's blocks.
  ///
  /// - Throws: `.usage` for codes that have no place in those files, `.badInput` for shapes that have no halves
  mutating func partExperts(_ names: LlamaCppNames) throws {
    guard let joined = names.parted else { return }
    var parted: [Item] = []
    for item in items {
      let own = item.source.asGGMLBlocks, source = own ?? item.source
      guard let (stem, suffix) = source.name.parts(of: joined.whole) else {
        parted.append(Item(own, of: item))
        continue
      }
      for (name, isSecond) in [(joined.first, false), (joined.second, true)] {
        var part = Item(try source.half(isSecond: isSecond, names), of: item, name: ByteName(stem + name + suffix))
        part.countsWhole = !isSecond
        part.part = .half(isSecond: isSecond, unit: source.outputs(names).run)
        parted.append(part)
      }
    }
    items = parted
  }
}

extension StreamJob.Item {
  /// - Parameter source: what is made of the item's own; nil where that stays
  init(_ source: StoredTensor?, of item: StreamJob.Item, name: ByteName? = nil) {
    guard var source else {
      self = item
      return
    }
    if let name { source.name = name }
    self.init(source: source, target: TensorTarget(keeping: source))
    whole = item.source
  }
}

extension ByteName {
  /// What stands before and behind a module's name in that of its weight or bias; nil for another's.
  func parts(of module: String) -> (stem: String, suffix: String)? {
    guard let suffix = [".weight", ".bias"].first(where: { text.hasSuffix("." + module + $0) }) else { return nil }
    return (String(text.dropLast(module.count + suffix.count)), suffix)
  }
}

extension StoredTensor {
  /// The same weights with the bits of MXFP4 as ggml's blocks; nil for other codes.
  fileprivate var asGGMLBlocks: StoredTensor? {
    guard encoding.codec is MXFP4, let codes = section(.codes), let scales = section(.scaleCodes),
      let blocks = StoredSection(.codes, .mxfp4, [codes, scales])
    else { return nil }
    var tensor = StoredTensor(name, GGMLType.mxfp4.elementType, shape, sections: [blocks])
    (tensor.isTransposed, tensor.encoding) = (isTransposed, GGMLType.mxfp4.encoding)
    return tensor
  }

  /// Outputs of two layers, and how many of one follow one another.
  fileprivate func outputs(_ names: LlamaCppNames) -> (count: Int, run: Int) {
    let count = (names.experts?.joined != nil ? logicalShape.last : logicalShape.first) ?? 0
    return (count, names.experts?.takesTurns == true ? 1 : count / 2)
  }

  /// Half of the outputs of a matrix, or of its bias: every second where they take turns. Experts are stored inputs first or packed outputs first.
  fileprivate func half(isSecond: Bool, _ names: LlamaCppNames) throws -> StoredTensor {
    guard encoding.isPlain || encoding.codec is GGMLBlocks else {
      throw NibbleError.usage(
        "\(place) is \(encoding.name) and holds what are two tensors of llama.cpp's; such codes are not parted: dequantize the model first")
    }
    let isOfExpert = names.experts?.joined != nil, isOutputsFirst = isPacked || !isOfExpert, (outputs, run) = outputs(names)
    let unit = run * (isOutputsFirst ? plainBytes / max(1, outputs) : dtype.bitWidth / 8)
    guard (1...2).contains(shape.count), outputs > 0, outputs % 2 == 0, isTransposed == (isPacked && isOfExpert), sections.count == 1,
      let half = StoredSection(sections[0].kind, .half(isSecond: isSecond, unit: unit), sections)
    else { throw NibbleError.badInput("\(place) of shape \(logicalShape) has no outputs of two layers") }
    var tensor = self
    (tensor.sections, tensor.digest) = ([half], nil)
    tensor.shape[isOutputsFirst ? 0 : shape.count - 1] /= 2
    return tensor
  }

  /// Outputs of this and another matrix, in turn or one after another, or of their biases, as a file of llama.cpp's has them.
  fileprivate func woven(with other: StoredTensor, as name: ByteName, takesTurns: Bool) throws -> StoredTensor {
    guard let rows = shape.first, rows > 0, other.shape == shape, other.dtype == dtype, other.encoding == encoding, sections.count == 1,
      other.sections.count == 1,
      let woven = StoredSection(sections[0].kind, .woven(unit: sections[0].storedLength / (takesTurns ? rows : 1)), [sections[0], other.sections[0]])
    else {
      throw NibbleError.badInput(
        "\(place) of \(isPacked ? encoding.name : dtype.rawValue) and shape \(shape) does not go with \(quoted(other.name.text)) of "
          + "\(other.isPacked ? other.encoding.name : other.dtype.rawValue) and shape \(other.shape)")
    }
    var tensor = self
    (tensor.name, tensor.sections) = (name, [woven])
    tensor.shape[0] = 2 * rows
    return tensor
  }
}

/// The experts of a file, and other halves of parameters, on their way to what the model's own files have.
struct GgufExperts {
  private let names: LlamaCppNames
  /// By the name that both will have: what came first.
  private var waiting: [ByteName: (tensor: StoredTensor, isSecond: Bool)] = [:]

  init(_ names: LlamaCppNames) { self.names = names }

  /// Takes one.
  ///
  /// - Returns: what is whole with it; nil for a half whose other is not there yet
  mutating func take(_ tensor: StoredTensor) throws -> StoredTensor? {
    guard let joined = names.parted else { return tensor }
    let takesTurns = names.experts?.takesTurns == true
    for (module, isSecond) in [(joined.first, false), (joined.second, true)] {
      guard let (stem, suffix) = tensor.name.parts(of: module) else { continue }
      let whole = ByteName(stem + joined.whole + suffix)
      guard let other = waiting.removeValue(forKey: whole) else {
        waiting[whole] = (tensor, isSecond)
        return nil
      }
      guard other.isSecond != isSecond else { throw NibbleError.badInput("\(tensor.place) is there under two names") }
      let (first, second) = isSecond ? (other.tensor, tensor) : (tensor, other.tensor)
      return try first.woven(with: second, as: whole, takesTurns: takesTurns)
    }
    return tensor
  }

  /// - Throws: `.badInput` where a half is there without the other
  func finish() throws {
    guard let lone = waiting.min(by: { $0.key < $1.key })?.value.tensor else { return }
    throw NibbleError.badInput("\(lone.place) is there without its other half")
  }
}

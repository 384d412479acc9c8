import NibbleCompute
import NibbleCore
import NibbleFormats

/// What the matrices of a model take on a text, kept in a file: for each layer whose input is looked at, Ĥ = E[x xᵀ], or its diagonal.
///
/// A safetensors file. `<layer>.moments` holds the upper triangle of Ĥ [n, n], row by row, as n(n + 1)/2 float32 numbers; `<layer>.energies`
/// its diagonal [n]. `<layer>.means` holds E[x] [n]. Layers that share an input share the tensor of the first. Metadata: `format` = `nibble statistics`, `version` = `1`,
/// `model`: the identity of the model, `tokens`, `text`: a digest of the tokens, and `layers`: a JSON object that gives for each
/// layer the name its tensor begins with.
public struct StatisticsFile: Sendable {
  public let path: String
  /// The model the text went through.
  public let model: Digest128
  /// Tokens of the text.
  public let tokens: Int
  /// A digest of the tokens.
  public let text: String
  /// By layer: where its moments begin.
  let owners: [String: String]
  private let file: TensorFile

  static let format = "nibble statistics"

  /// - Throws: `.badInput` for a file that is none, or that is damaged
  public init(_ path: String) throws {
    self.path = path
    file = try TensorFile(path)
    let metadata = Dictionary(file.metadata, uniquingKeysWith: { first, _ in first })
    let bad = NibbleError.badInput("\(path: path): not a file of statistics that 'nibble calibrate' writes")
    guard metadata["format"] == Self.format, metadata["version"] == "1" else { throw bad }
    guard let model = metadata["model"].flatMap({ Digest128(hex: $0) }), let tokens = metadata["tokens"].flatMap({ Int($0) }), tokens > 0,
      let text = metadata["text"], let layers = metadata["layers"], let json = try? JSON.parse(layers),
      case .object(let object) = json
    else { throw bad }
    (self.model, self.tokens, self.text) = (model, tokens, text)
    owners = Dictionary(object.compactMap { entry in entry.value.string.map { (entry.key, $0) } }, uniquingKeysWith: { first, _ in first })
    guard owners.count == object.count else { throw bad }
  }

  /// Whether only energies of channels were kept.
  public var isDiagonal: Bool { owners.values.contains { file.tensor($0 + ".energies") != nil } }

  /// The moments of a layer that takes `inputs` numbers; nil if there are none of it.
  ///
  /// - Throws: `.badInput` for other shapes and numbers that are no moments
  func moments(of layer: String, inputs: Int) throws -> Moments? {
    guard let owner = owners[layer] else { return nil }
    if let stored = file.tensor(owner + ".energies") {
      let values = try numbers(stored, count: inputs)
      guard values.allSatisfy({ $0 >= 0 }) else { throw wrong(stored, "has negative energies") }
      return Moments(diagonal: values)
    }
    guard let stored = file.tensor(owner + ".moments") else {
      throw NibbleError.badInput("\(path: path): no moments of \(subject: owner), which it lists")
    }
    let moments = Moments(triangle: try numbers(stored, count: inputs * (inputs + 1) / 2), inputs: inputs)
    guard moments.diagonal.allSatisfy({ $0 >= 0 }) else { throw wrong(stored, "has negative energies") }
    return moments
  }

  /// Whether the file at a path begins as one of these does: with the length of a JSON object.
  public static func begins(_ path: String) -> Bool {
    guard let file = try? InputFile(path), file.size > 9 else { return false }
    return (try? file.bytes(at: 8, count: 1)) == [UInt8(ascii: "{")]
  }

  /// The mean square of each input of each layer.
  ///
  /// - Throws: `.badInput` for broken moments
  public func importance() throws -> Importance {
    var entries: [String: [Float]] = [:], known: [String: [Float]] = [:]
    for (layer, owner) in owners {
      if known[owner] == nil { known[owner] = try energies(of: owner) }
      entries[layer + ".weight"] = known[owner]
    }
    return Importance(path: path, entries)
  }

  private func energies(of owner: String) throws -> [Float] {
    if let stored = file.tensor(owner + ".energies") { return try notNegative(numbers(stored, count: stored.count), stored) }
    guard let stored = file.tensor(owner + ".moments") else {
      throw NibbleError.badInput("\(path: path): no moments of \(subject: owner), which it lists")
    }
    let inputs = Int((Double(8 * stored.count + 1).squareRoot() - 1) / 2)
    let triangle = try numbers(stored, count: inputs * (inputs + 1) / 2)
    var (at, diagonal) = (0, [Float]())
    for row in 0..<inputs {
      diagonal.append(triangle[at])
      at += inputs - row
    }
    return try notNegative(diagonal, stored)
  }

  private func notNegative(_ values: [Float], _ stored: StoredTensor) throws -> [Float] {
    guard values.allSatisfy({ $0 >= 0 }) else { throw wrong(stored, "has negative energies") }
    return values
  }

  /// Where a layer's moments are: the same for layers that take the same; nil if there are none of it.
  package func owner(of layer: String) -> String? { owners[layer] }

  /// Ĥ [inputs, inputs], its upper triangle, and the means of a layer that takes `inputs` numbers; nil if there are none of it.
  ///
  /// - Throws: `.badInput` for other shapes, numbers that are no moments, and a file that holds energies only or no means
  package func inputs(of layer: String, count: Int) throws -> (second: FloatStore, mean: [Float])? {
    guard let owner = owners[layer] else { return nil }
    guard !isDiagonal else { throw NibbleError.badInput("\(path: path): holds energies only; a start needs moments") }
    guard let means = file.tensor(owner + ".means") else {
      throw NibbleError.badInput("\(path: path): no means of \(subject: owner); write the file anew with 'nibble calibrate'")
    }
    return try moments(of: layer, inputs: count).map { ($0.hessian, try numbers(means, count: count)) }
  }

  private func numbers(_ stored: StoredTensor, count: Int) throws -> [Float] {
    guard stored.shape == [count], stored.dtype == .f32 else {
      throw wrong(stored, "has shape \(stored.shape) and type \(stored.dtype.rawValue); \(count) numbers of F32 belong there")
    }
    let values = try file.floats(stored)
    guard LayerKernels.allFinite(values, count: count) else { throw wrong(stored, "has NaN or infinite values") }
    return values
  }

  private func wrong(_ stored: StoredTensor, _ what: MessageText) -> NibbleError {
    .badInput("\(path: path): \(tensor: stored.name.text) \(what)")
  }

  /// Throws `.adapterMismatch` unless the statistics are of `checkpoint`, or of what it was packed from.
  public func check(_ checkpoint: Checkpoint, threads: Int) throws {
    let source = checkpoint.provenance?["source"]?.string.flatMap { Digest128(hex: $0) }
    if source == model { return }
    guard try checkpoint.claimedIdentity ?? checkpoint.hash(threads: threads) == model else {
      throw NibbleError(
        .adapterMismatch, "\(path: path): the statistics are of another model, of identity \(model), than \(checkpoint.path)")
    }
  }
}

import NibbleCore
import NibbleQuant

/// The tensors of a checkpoint, from which a layout takes those that belong to one packed weight.
struct PackedParts {
  private var byName: [ByteName: StoredTensor] = [:]
  private let layout: String
  private(set) var found: [StoredTensor] = []

  /// - Parameter layout: its name, for messages
  init(_ tensors: [StoredTensor], _ layout: String) {
    for tensor in tensors { byName[tensor.name] = tensor }
    self.layout = layout
  }

  /// Modules that have a tensor with this ending, in order of names.
  func modules(_ ending: String) -> [String] {
    byName.keys.filter { $0.text.hasSuffix(ending) }.sorted().map { String($0.text.dropLast(ending.count)) }
  }

  mutating func take(_ name: String) -> StoredTensor? { byName.removeValue(forKey: ByteName(name)) }
  func tensor(_ name: String) -> StoredTensor? { byName[ByteName(name)] }

  /// What is wrong with a weight.
  ///
  /// - Parameter part: one of its tensors
  func fail(_ module: String, _ part: StoredTensor, _ reason: MessageText) -> NibbleError {
    .badInput("\(path: part.sections[0].place): \(layout) weight \(subject: module + ".weight"): \(reason)")
  }

  /// What of a weight is of another type or shape than it must be.
  func misfit(_ module: String, _ part: StoredTensor, _ expected: MessageText) -> NibbleError {
    let name = part.name.text.dropFirst(module.count + 1)
    return fail(module, part, "\(key: String(name)) is \(part.dtype.rawValue) of shape \(part.shape), expected \(expected)")
  }

  /// Adds a weight.
  ///
  /// - Parameter sections: codes, scales, and zeros if there are any
  mutating func add(_ module: String, _ dtype: DType, _ shape: [Int], _ codec: Int4Groups, _ sections: [StoredSection]) throws {
    var tensor = StoredTensor(ByteName(module + ".weight"), dtype, shape, sections: sections)
    tensor.encoding = WeightEncoding(codec)
    try add(tensor)
  }

  /// The same for a tensor that is made already.
  mutating func add(_ tensor: StoredTensor) throws {
    if let why = tensor.encoding.codec.refusal(tensor.dtype, tensor.shape) { throw NibbleError.badInput("\(tensor.place): \(why)") }
    if byName[tensor.name] != nil {
      throw NibbleError.badInput("\(tensor.place): the same weight is there plain as well")
    }
    found.append(tensor)
  }

  /// All tensors, those of each packed weight made one.
  ///
  /// - Parameters:
  ///   - parts: endings that only parts of packed weights have
  ///   - codes: the ending of codes
  /// - Throws: for a part that belongs to none
  func all(_ parts: [String], of codes: String) throws -> [StoredTensor] {
    if let name = byName.keys.filter({ name in parts.contains { name.text.hasSuffix($0) } }).min(), let lone = byName[name],
      let ending = parts.first(where: { name.text.hasSuffix($0) })
    {
      let module = name.text.dropLast(ending.count)
      throw NibbleError.badInput("\(lone.place): the codes it belongs to, \(quoted(module + codes)), are missing")
    }
    return Array(byName.values) + found
  }
}

extension StoredSection {
  /// Whether every byte is `byte`. Reads them all.
  func isFilled(with byte: UInt8) throws -> Bool {
    guard case .file(let file, let offset) = source else { return false }
    for start in stride(from: 0, to: storedLength, by: 1 << 20) {
      let bytes = try file.bytes(at: offset + start, count: min(1 << 20, storedLength - start))
      guard bytes.allSatisfy({ $0 == byte }) else { return false }
    }
    return true
  }

  /// Whole numbers of 32 or 64 bits.
  func integers(width: Int) throws -> [Int] {
    guard case .file(let file, let offset) = source else { return [] }
    let bytes = try file.bytes(at: offset, count: storedLength)
    return stride(from: 0, to: bytes.count, by: width).map { start in
      let value = (0..<width).reduce(UInt64(0)) { $0 | UInt64(bytes[start + $1]) << UInt64(8 * $1) }
      return width == 8 ? Int(truncatingIfNeeded: Int64(bitPattern: value)) : Int(Int32(truncatingIfNeeded: value))
    }
  }
}

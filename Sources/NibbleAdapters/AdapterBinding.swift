import NibbleCore
import NibbleFormats
import NibbleQuant

/// What an adapter was trained on: content identities, which nibble writes into the adapter's safetensors metadata, where PEFT does
/// not look.
public struct AdapterBinding: Sendable, Equatable {
  /// The base as it was trained on.
  public var base: Digest128
  /// What that was packed from, where it was packed.
  public var source: Digest128?
  /// How, as `--trained-on` spells it.
  public var packing: String?

  /// A head that was trained with it on a base that has none, as JSON.
  public var head: JSON?

  /// The key of the metadata.
  static let key = "nibble_adapter"

  /// - Parameters:
  ///   - base: the identity of the base trained on
  ///   - source: the identity of what that was packed from
  ///   - packing: how it was packed
  public init(base: Digest128, source: Digest128? = nil, packing: String? = nil) {
    (self.base, self.source, self.packing) = (base, source, packing)
  }

  /// What `checkpoint`, the base of a training run, says of itself.
  public init(to checkpoint: Checkpoint, identity: Digest128) {
    base = identity
    guard let record = checkpoint.provenance, record["verb"]?.string == "quantize",
      let source = record["source"]?.string.flatMap({ Digest128(hex: $0) })
    else { return }
    self.source = source
    packing = checkpoint.packingName
  }

  var text: String {
    var json: JSON = ["base": JSON(base.description)]
    if let source { json = json.setting("source", to: JSON(source.description)) }
    if let packing { json = json.setting("trained_on", to: JSON(packing)) }
    if let head { json = json.setting("head", to: head) }
    return json.text()
  }

  init(text: String, place: String) throws {
    func fail() -> NibbleError {
      NibbleError.badInput("\(path: place): its \(subject: Self.key) metadata is not what nibble writes there")
    }
    guard let json = try? JSON.parse(Array(text.utf8)), let base = json["base"]?.string.flatMap({ Digest128(hex: $0) }) else {
      throw fail()
    }
    self.base = base
    if let value = json["source"] {
      guard let digest = value.string.flatMap({ Digest128(hex: $0) }) else { throw fail() }
      source = digest
    }
    head = json["head"]
    if let value = json["trained_on"] {
      guard let text = value.string, (try? QuantizeOptions(trainedOn: text)) != nil else { throw fail() }
      packing = text
    }
  }
}

extension Checkpoint {
  /// How its tensors are packed, as `--trained-on` spells it; nil where that has no such name.
  var packingName: String? {
    let all = Set(packed.map(\.encoding)), searched = all.filter(\.kind.searchesScales)
    let own = searched.isEmpty ? all : searched
    guard own.count == 1, let encoding = own.first, !encoding.kind.isForeign else { return nil }
    var parts = [encoding.kind.askedAs ?? encoding.name]
    if let block = encoding.parameter("block_size")?.int {
      parts.append("block=\(block)")
      if let tile = encoding.parameter("tile")?.string { parts[parts.count - 1] = "tile=\(tile)" }
      if encoding.parameter("double_quant") != true { parts.append("no-double-quant") }
    }
    if let group = encoding.parameter("group_size")?.int, let zeros = encoding.parameter("zeros")?.string {
      parts.append("group=\(group == 0 ? "row" : "\(group)")")
      parts.append(zeros == Int4Groups.Zero.none.rawValue ? "symmetric" : "zeros=\(zeros)")
    }
    if encoding.kind.searchesScales, encoder != .absmax { parts.append(encoder.rawValue) }
    if encoding.kind.hasOffsets { parts.append((offsets ?? OffsetSearch()).text) }
    return parts.joined(separator: ":")
  }
}

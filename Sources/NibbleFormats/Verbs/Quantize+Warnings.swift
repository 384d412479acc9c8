import NibbleCore
import NibbleQuant

/// What is refused or warned of in the choice of what is packed.
extension StreamJob {
  /// Throws where the codec that was asked for packs nothing because all is packed with another already. Packing that again would round
  /// twice.
  static func checkPacksSomething(_ decisions: [PackingDecision], _ options: QuantizeOptions, _ source: Checkpoint) throws {
    let already = decisions.filter { $0.reason == .alreadyPacked }.map(\.tensor.encoding)
    guard options.insistsOnCodec, let first = already.first, !already.contains(where: { $0.name == options.codec.name }),
      !decisions.contains(where: { $0.choice == options.codec })
    else { return }
    throw NibbleError.usage(
      "\(path: source.path): \(.codec, options.codec.name) packs nothing: \(already.count) tensors are packed as \(first.name) already, and packing "
        + "them again would round twice; quantize the original, or dequantize first")
  }

  /// That codes of other programs' files are decoded, and packed anew: their numbers were rounded before.
  static func roundedTwice(_ items: [Item], _ source: Checkpoint) -> [Warning] {
    let decoded = items.filter { $0.source.encoding.kind.isForeign && $0.source.encoding != $0.target.encoding }
    guard !decoded.isEmpty else { return [] }
    let counts = Dictionary(grouping: decoded, by: \.source.encoding.name).map { "\($0.value.count) \($0.key)" }.sorted()
    let packed = decoded.count { $0.target.encoding.isPacked }
    return [
      .init(
        .precision,
        "\(path: source.path): \(decoded.count) tensors are quantized already (\(counts.joined(separator: ", "))): they are decoded"
          + (packed == 0 ? "" : ", and packing rounds \(packed) of them a second time; quantize the original where there is one"))
    ]
  }

  /// What a user might not expect of these decisions.
  static func warnings(_ decisions: [PackingDecision]) -> [Warning] {
    var warnings: [Warning] = []
    let stacked = decisions.filter { $0.reason == .stacked }
    if !stacked.isEmpty {
      let bytes = stacked.reduce(0) { $0 + $1.tensor.storedBytes }
      warnings.append(
        .init(
          .unused,
          "\(stacked.count) 3-D weights (mixture of experts?) of \(byteText(bytes)) are kept as they are; the first is "
            + "\(subject: stacked[0].tensor.name.text)"))
    }
    let wide = decisions.filter { $0.tensor.dtype == .f64 && $0.choice != .keep }
    if !wide.isEmpty {
      warnings.append(.init(.precision, "\(wide.count) F64 tensors are rounded to float32 before they are coded"))
    }
    let kept = decisions.filter {
      $0.reason == .keptByFamily && $0.tensor.shape.count == 2 && !NameGuess.isEmbeddingOrHead($0.tensor.name.text)
    }
    let others = decisions.filter { $0.reason == .otherPart }
    if !others.isEmpty {
      let bytes = others.reduce(0) { $0 + $1.tensor.storedBytes }
      warnings.append(
        .init(
          .unused,
          "\(others.count) weights of parts that take pictures (\(byteText(bytes))) are kept as they are, \(subject: others[0].tensor.name.text) the first; "
            + "a rule packs them"))
    }
    let skipped = decisions.filter { $0.reason == .notReplaced }
    if !skipped.isEmpty {
      warnings.append(
        .init(
          .compatibility,
          "\(skipped.count) weights are kept because transformers does not load them packed, the first of which is "
            + "\(subject: skipped[0].tensor.name.text)"))
    }
    if !kept.isEmpty {
      let names = kept.prefix(4).map { quoted($0.tensor.name.text) }.joined(separator: ", ")
      warnings.append(
        .init(
          .unused,
          "\(kept.count) 2-D weights are no linear layers of this architecture as nibble knows it and are kept: "
            + "\(names)\(kept.count > 4 ? ", …" : "")"))
    }
    return warnings
  }
}

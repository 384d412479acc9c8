import NibbleCompute
import NibbleCore

/// A head that scores every row of states by itself: the vocabulary, classes, or an answer's ends.
package struct RowHead: Sendable {
  /// What stands before the scores, where something does.
  package var transform: HeadTransform?
  package var output: Linear
  /// Whether `output` is a module with a weight that is found under its name; false for a head that multiplies with the embedding's own.
  package var isModule = true
  /// Another parameter with the values of the output's bias, where transformers ties the two.
  package var otherBias: ParameterID?
  /// That parameter where it is not tied, and nothing is computed with it.
  package var idleBias: Vector?

  package init(_ output: Linear, transform: HeadTransform? = nil) { (self.output, self.transform) = (output, transform) }

  package var outputs: Int { output.outputs }
  /// The modules that are linear layers, in the order of the pass.
  package var layers: [Linear] { (transform.map { [$0.dense] } ?? []) + (isModule ? [output] : []) }
  /// Numbers of work in hand for a row of states, `width` of which are the state.
  package func room(_ width: Int) -> Int { outputs + 2 * width + (transform.map { 4 * $0.dense.outputs } ?? 0) }
}

/// What a head makes of a row before it scores it: norm(activation(dense(x))).
package struct HeadTransform: Sendable {
  package var dense: Linear
  package var activation: Activation
  package var norm: HeadNorm

  package init(_ dense: Linear, _ activation: Activation, _ norm: HeadNorm) {
    (self.dense, self.activation, self.norm) = (dense, activation, norm)
  }
}

/// What the parts of a head for masked tokens are called.
struct MaskedHeadNames {
  var dense: String
  var norm: String
  var decoder: String
  /// A bias that is the decoder's own where the configuration ties the two, and nothing where it does not.
  var otherBias: String?
}

extension WeightSource {
  /// A head for masked tokens: a layer, an activation and a norm give rows as wide as the embeddings, whose weight the decoder shares unless
  /// `tie_word_embeddings` is false.
  ///
  /// - Parameters:
  ///   - tokens: the table of tokens
  ///   - denseBias, normBias, decoderBias: whether these parts have biases
  func masked(
    _ names: MaskedHeadNames, _ config: ConfigReader, _ shape: TransformerShape, tokens: Embedding, activation: Activation,
    denseBias: Bool = true, normBias: Bool = true, decoderBias: Bool = true
  ) throws -> Head {
    let transform = try transform(
      names.dense, names.norm, shape, width: tokens.width, activation: activation, denseBias: denseBias, normBias: normBias)
    let isTied = try config.tiesEmbeddings()
    let plain = isTied
      ? try tied(names.decoder, to: tokens) : try linear(names.decoder, outputs: tokens.count, inputs: tokens.width, bias: .none)
    var head = RowHead(plain, transform: transform)
    guard decoderBias else { return .masked(head) }
    let (own, count) = (names.decoder + ".bias", tokens.count)
    if isTied, let other = names.otherBias {
      // A file may hold it under either name; two that differ are not tied, and the decoder's own counts.
      let twin = has(other) ? try vector(other, count: count) : nil
      let bias = try twin.flatMap { has(own) ? nil : Vector(id: register(own), values: $0.values) } ?? vector(own, count: count)
      head.output = plain.with(bias: bias)
      if let twin, !twin.values.values.elementsEqual(bias.values.values) {
        head.idleBias = twin
      } else {
        head.otherBias = twin?.id ?? register(other)
      }
    } else {
      head.output = plain.with(bias: try vector(own, count: count))
      head.idleBias = try names.otherBias.flatMap { has($0) ? try vector($0, count: count) : nil }
    }
    return .masked(head)
  }

  /// - Parameter width: of what it gives
  func transform(
    _ dense: String, _ norm: String, _ shape: TransformerShape, width: Int, activation: Activation, denseBias: Bool = true, normBias: Bool = true
  ) throws -> HeadTransform {
    HeadTransform(
      try linear(dense, outputs: width, inputs: shape.width, bias: denseBias ? .required : .none), activation,
      HeadNorm(try self.norm(norm, width: width, hasBias: normBias), epsilon: shape.epsilon))
  }
}

extension ConfigReader {
  /// Whether an encoder's head shares the weight of its embedding.
  func tiesEmbeddings() throws -> Bool { try bool("tie_word_embeddings", default: true) }

  /// The decoder of a model for masked tokens, if it shares the embedding's weight: a file may hold the weight under either name.
  func sharedDecoder(_ names: MaskedHeadNames) throws -> String? {
    guard self["architectures"]?.array?.first?.string?.hasSuffix("ForMaskedLM") == true, try tiesEmbeddings() else { return nil }
    return names.decoder
  }
}

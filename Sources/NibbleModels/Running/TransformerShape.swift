import NibbleCompute
import NibbleCore

/// A transformer as numbers: what is computed, in which order. A family's file fills it in from its configuration.
package struct TransformerShape: Sendable {
  package var vocabulary: Int
  package var width: Int
  package var heads: Int
  package var keyValueHeads: Int
  /// Numbers in a head of queries or keys.
  package var headSize: Int
  package var layers: Int
  /// The most tokens a sequence may have.
  package var contextLength: Int
  /// Whether tokens see only what is before them.
  package var isCausal: Bool
  /// RMS norms or layer norms.
  package var isRMSNorm: Bool
  package var epsilon: Float
  /// Whether norms multiply with one more than their weight (Gemma).
  package var normAddsOne = false
  package var activation: Activation
  /// Whether the MLP's activation is multiplied with a second projection.
  package var isGated: Bool
  /// What takes the place of activation(gate) · up, of one projection in which gates and ups take turns.
  package var clampedGate: ClampedGate?
  /// Whether attention and MLP of a layer both take its input, rather than one what the other gave.
  package var isParallel = false
  /// Whether one projection gives, for each head of keys, its queries, then the key, then the value (GPT-NeoX).
  package var isGrouped = false
  /// Numbers in a head of values; nil for as many as in one of keys.
  package var valueHeadSize: Int?
  /// Numbers of each head before those that are turned to their positions.
  package var unturned = 0
  /// Of each layer, nil for one that does not turn its heads; empty for a model that turns none.
  package var rotary: [RotaryPositions?] = []
  /// Position of a sequence's first token in the table of position embeddings.
  package var firstPosition = 0
  /// Tokens a token of each layer sees at most, nil for all.
  package var windows: [Int?]
  /// Tokens of a chunk, of which a token of each layer sees those of its own only; nil for all, empty for a model without.
  package var chunks: [Int?] = []
  /// What queries of each layer are multiplied with by their positions; nil for nothing, empty for a model without.
  package var queryScales: [QueryScale?] = []
  /// Epsilons of norms of each head of queries and keys that multiply with nothing, by layer; nil for none, empty for a model without.
  package var plainHeadNorms: [Float?] = []
  /// The id batches are padded with, where the configuration says.
  package var padding: Int?
  /// What scores of attention are multiplied with, by layer; nil for 1 / √headSize.
  package var attentionScales: [Float]?
  /// Scores of attention, scaled, become cap · tanh(score / cap); nil for as they are.
  package var attentionCap: Float?
  /// What embeddings of tokens are multiplied with.
  package var embeddingScale: Float = 1
  /// Whether noise on embeddings is multiplied with it, too.
  package var scalesNoise = false
  /// What attention and MLP give is multiplied with before it is added to what they took.
  package var residualScale: Float = 1
  package var logits = LogitChange()

  package var queryWidth: Int { heads * headSize }
  package var keyWidth: Int { keyValueHeads * headSize }
  package var valueSize: Int { valueHeadSize ?? headSize }
  package var valueWidth: Int { keyValueHeads * valueSize }
  /// Numbers of queries, keys and values of a token.
  package var attentionWidth: Int { queryWidth + keyWidth + valueWidth }
  /// Numbers that attention makes of them.
  package var attendedWidth: Int { heads * valueSize }

  /// Tokens of a layer's chunks; nil for a layer without.
  func chunk(_ layer: Int) -> Int? { chunks.indices.contains(layer) ? chunks[layer] : nil }
  /// Whether some layers have norms of heads that multiply with nothing.
  var normsHeadsPlainly: Bool { plainHeadNorms.contains { $0 != nil } }

  package func attention(_ layer: Int) -> Attention {
    Attention(
      heads: heads, keyValueHeads: keyValueHeads, size: headSize, valueSize: valueSize,
      scale: attentionScales?[layer] ?? 1 / Float(headSize).squareRoot(), isCausal: isCausal, cap: attentionCap)
  }
}

/// What becomes of the scores of a language head: they are divided, then bounded to cap · tanh(score / cap).
package struct LogitChange: Sendable {
  package var divisor: Float = 1
  package var cap: Float?

  package init(divisor: Float = 1, cap: Float? = nil) { (self.divisor, self.cap) = (divisor, cap) }

  package var isNone: Bool { divisor == 1 && cap == nil }
}

/// The norms of one branch f of a layer, attention or MLP: behind(x + after(f(before(x)))).
package struct BranchNorms: Sendable {
  package var before: Norm?
  package var after: Norm?
  package var behind: Norm?

  package init(before: Norm? = nil, after: Norm? = nil, behind: Norm? = nil) {
    (self.before, self.after, self.behind) = (before, after, behind)
  }

  package var all: [Norm] { [before, after, behind].compactMap { $0 } }
}

/// The weights of one layer.
package struct LayerWeights: Sendable {
  package var attentionNorms: BranchNorms
  /// Projections whose outputs, side by side, are queries, keys and values.
  package var queryKeyValue: [Linear]
  /// What gives them in place of these.
  package var latent: LatentProjections?
  /// Norms of queries and keys before they are turned: of each head, or of all of a token together, as long as their weights.
  package var queryNorm: Norm?
  package var keyNorm: Norm?
  /// What makes keys and queries of distances, as many as the model has; none where the tokens' own projections do.
  package var distances: [Linear] = []
  package var attentionOutput: Linear
  /// Scores of attention that no key has, one a head.
  package var sinks: Vector?
  /// Between attention and the MLP, in a decoder beside an encoder.
  package var cross: CrossAttention?
  /// Without a norm before it, the MLP of a parallel layer takes what attention takes.
  package var mlpNorms: BranchNorms
  /// [gate, up], one projection of both, or that of a plain MLP. Of a layer with experts, those of the first.
  package var up: [Linear]
  package var down: Linear
  /// What takes the MLP's place in some layers of some models.
  package var experts: Experts?

  /// The MLP; of a layer with experts, the first.
  var own: Expert { Expert(up: up, down: down) }
  /// In the order of the pass.
  package var linears: [Linear] { attention + (experts?.linears ?? mlp) }
  /// Of attention, to other texts included.
  package var attention: [Linear] { queryKeyValue + (latent?.linears ?? []) + distances + [attentionOutput] + (cross?.linears ?? []) }
  /// Of the MLP, or of all experts.
  package var mlp: [Linear] { experts.map { $0.all.flatMap(\.linears) + ($0.shared?.expert.linears ?? []) } ?? up + [down] }
  package var norms: [Norm] { attentionNorms.all + [queryNorm, keyNorm, cross?.norm].compactMap { $0 } + (latent?.norms ?? []) + mlpNorms.all }
  /// Numbers the projections of the MLP give, side by side.
  package var upWidth: Int { up.reduce(0) { $0 + $1.outputs } }
  /// MLPs that each token passes.
  var used: Int { experts?.used ?? 1 }
  var normsHeads: Bool { queryNorm != nil || keyNorm != nil }
}

/// All weights of a model.
package struct TransformerWeights: Sendable {
  package var tokens: Embedding
  package var positions: Embedding?
  package var tokenTypes: Embedding?
  package var embeddingNorm: Norm?
  /// From the width of embeddings, with their norm behind them, to that of the layers; nil where they are the same.
  package var embeddingProjection: Linear?
  /// Positions as distances, beside or in place of a table of positions.
  package var relative: RelativePositions?
  /// Positions as numbers that are added to scores.
  package var positionBias: PositionBias?
  /// In the order of the pass; one may stand several times (ALBERT).
  package var layers: [LayerWeights]
  package var finalNorm: Norm?
  package var head: Head
  /// Layers of the checkpoint that no result depends on, for adapters that were trained on them, too.
  package var idle: [Linear] = []
}

extension TransformerWeights {
  /// Numbers in a row of the tables of embeddings.
  var embeddingWidth: Int { tokens.width }
  /// Its layers, each once.
  package var distinctLayers: [LayerWeights] {
    var seen: Set<ParameterID> = []
    return layers.filter { seen.insert($0.down.id).inserted }
  }
  package var sharesLayers: Bool { distinctLayers.count < layers.count }
}

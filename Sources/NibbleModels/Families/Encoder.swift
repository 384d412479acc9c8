import NibbleCompute
import NibbleCore

/// What the weights of a layer of BERT's kind are called: one with biases everywhere, and a norm behind each residual sum.
struct EncoderNames {
  var queryKeyValue: [String]
  /// Layers that make keys and queries of distances.
  var distances: [String] = []
  var attentionOutput: String
  var attentionNorm: String
  var up: String
  var down: String
  var mlpNorm: String
}

extension WeightSource {
  /// A layer of BERT's kind, whose names begin with `layer`.
  func encoderLayer(_ layer: String, _ names: EncoderNames, _ shape: TransformerShape, inner: Int) throws -> LayerWeights {
    let width = shape.width
    func linear(_ name: String, _ outputs: Int, _ inputs: Int) throws -> Linear {
      try self.linear(layer + name, outputs: outputs, inputs: inputs, bias: .required)
    }
    func behind(_ name: String) throws -> BranchNorms { BranchNorms(behind: try norm(layer + name, width: width, hasBias: true)) }
    return LayerWeights(
      attentionNorms: try behind(names.attentionNorm),
      queryKeyValue: try names.queryKeyValue.map { try linear($0, shape.queryWidth, width) },
      distances: try names.distances.map { try linear($0, shape.queryWidth, width) },
      attentionOutput: try linear(names.attentionOutput, width, shape.queryWidth), mlpNorms: try behind(names.mlpNorm),
      up: [try linear(names.up, inner, width)], down: try linear(names.down, width, inner))
  }

  /// A classifier of an encoder's first token: a layer with an activation behind it, and the classes.
  func classifier(
    _ config: ConfigReader, dense: String, activation: Activation = .tanh, output: String, width: Int
  ) throws -> Head {
    let labels = try config.labelCount()
    return .classification(
      ClassificationHead(
        token: .first, dense: [try linear(dense, outputs: width, inputs: width, bias: .required)], activation: activation,
        output: try linear(output, outputs: labels, inputs: width, bias: .required), problem: try config.problem(labels: labels)))
  }

  /// Lets such a classifier begin anew, and the layer before its classes where the checkpoint has none.
  func beginClassifier(_ dense: String, _ output: String, width: Int, labels: Int) {
    if !has(dense + ".weight") { begin(dense, outputs: width, inputs: width, hasBias: true) }
    begin(output, outputs: labels, inputs: width, hasBias: true)
  }
}

import NibbleAdapters
import NibbleCompute

/// Where gradients go, by the parameter they belong to. What has no place here is frozen.
package struct Gradients {
  /// Of methods, by the parameter of their layer's weight.
  package var methods: [ParameterID: PartGradients] = [:]
  /// Of biases and norms.
  package var vectors: [ParameterID: FloatStore] = [:]
  /// Of whole weights, as their modules hold them.
  package var matrices: [ParameterID: FloatStore] = [:]
  /// Of what is added to embeddings.
  package var tables: [ParameterID: PartGradients] = [:]
  /// Of rows that tokens have of their own.
  package var rows: [ParameterID: FloatStore] = [:]

  package init() {}

  func has(_ layer: Linear) -> Bool {
    methods[layer.id] != nil || matrices[layer.id] != nil || rows[layer.id] != nil
      || layer.bias.map { vectors[$0.id] != nil } ?? false
  }

  func has(_ norm: Norm) -> Bool {
    vectors[norm.weight.id] != nil || norm.bias.map { vectors[$0.id] != nil } ?? false
  }
}

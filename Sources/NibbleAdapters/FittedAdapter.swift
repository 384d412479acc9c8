import NibbleCore
import NibbleFormats

/// A module of an adapter and the place it has in a model that is open: what attaching and training both go by.
package struct FittedModule {
  package enum Place { case layer(Int), table(Int) }

  package let module: AdapterFile.AdaptedModule
  /// In the model's lists of linear layers and embeddings.
  package let place: Place
}

/// The size of something an adapter can be fitted to: a linear layer, or an embedding of `inputs` rows.
package struct FittingSize {
  let inputs: Int
  let outputs: Int
  /// Whether it is a convolution, over windows of its input.
  let isConvolution: Bool

  package init(inputs: Int, outputs: Int, isConvolution: Bool = false) {
    (self.inputs, self.outputs, self.isConvolution) = (inputs, outputs, isConvolution)
  }
}

extension AdapterFile {
  /// Finds the place of each module in a model.
  ///
  /// - Parameters:
  ///   - layers: sizes of the model's linear layers
  ///   - tables: sizes of its embeddings, whose names follow those of the layers in `names`
  /// - Throws: `.adapterMismatch` for modules of another kind or shape
  package func fitted(_ names: ModuleNames, layers: [FittingSize], tables: [FittingSize]) throws -> [FittedModule] {
    try modules.compactMap { module in
      guard let index = names.index(of: module.path) else { return nil }
      let isLayer = index < layers.count
      let size = isLayer ? layers[index] : tables[index - layers.count]
      guard module.isEmbedding != isLayer else {
        throw mismatch(
          module.path,
          isLayer ? "is a linear layer, its factors are an embedding's" : "is an embedding, its factors are a linear layer's")
      }
      guard !module.isConvolution, !size.isConvolution else {
        throw mismatch(module.path, "is a convolution, whose adapters are merged, and neither attached nor trained")
      }
      guard module.shape.fits(inputs: size.inputs, outputs: size.outputs) else {
        if isLayer, let other = unrecordedGroups(module, inputs: size.inputs, outputs: size.outputs) { throw other }
        throw mismatch(
          module.path,
          isLayer
            ? "has tensors of shapes \(module.shapes), the base's layer takes \(size.inputs) and gives \(size.outputs)"
            : "has tensors of shapes \(module.shapes), the base's embedding has \(size.inputs) rows of \(size.outputs)")
      }
      guard isLayer || module.method.looksUp else {
        throw mismatch(
          module.path, "is an embedding with \(module.method.name), which is merged, and neither attached nor trained")
      }
      let own = isLayer ? try completed(module, inputs: size.inputs, outputs: size.outputs) : module
      return FittedModule(module: own, place: isLayer ? .layer(index) : .table(index - layers.count))
    }
  }
}

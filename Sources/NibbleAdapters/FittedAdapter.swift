import NibbleCore
import NibbleFormats

/// A module of an adapter and the place it has in a model that is open: what attaching and training both go by.
package struct FittedModule {
  package enum Place { case layer(Int), table(Int) }

  package let module: AdapterFile.AdaptedModule
  /// In the model's lists of linear layers and embeddings.
  package let place: Place
}

/// The size of something an adapter can be fitted to: a linear layer or convolution, or an embedding, whose inputs are its rows.
package struct FittingSize {
  /// [inputs], of a convolution [channels, height, width].
  let input: [Int]
  let outputs: Int
  /// Whether its module stores the weight [inputs, outputs].
  let isInputsFirst: Bool

  var inputs: Int { elementCount(of: input) ?? 0 }
  var isConvolution: Bool { input.count > 1 }

  package init(input: [Int], outputs: Int, isInputsFirst: Bool = false) {
    (self.input, self.outputs, self.isInputsFirst) = (input, outputs, isInputsFirst)
  }
}

extension AdapterFile {
  /// Finds the place of each module in a model.
  ///
  /// - Parameters:
  ///   - layers: sizes of the model's linear layers and convolutions
  ///   - tables: sizes of its embeddings, whose names follow those of the layers in `names`
  /// - Throws: `.adapterMismatch` for modules of another kind or shape
  package func fitted(_ names: ModuleNames, layers: [FittingSize], tables: [FittingSize]) throws -> [FittedModule] {
    try modules.compactMap { given in
      guard let index = names.index(of: given.path) else { return nil }
      let isLayer = index < layers.count
      let size = isLayer ? layers[index] : tables[index - layers.count]
      let module = size.isInputsFirst ? given.turned(as: isLayer ? .linear : .embedding) : given
      guard module.isEmbedding != isLayer else {
        throw mismatch(
          module.path,
          isLayer ? "is a linear layer, its factors are an embedding's" : "is an embedding, its factors are a linear layer's")
      }
      guard module.isConvolution == size.isConvolution else {
        throw mismatch(
          module.path,
          module.isConvolution ? "is a linear layer, its factors are a convolution's" : "is a convolution, its tensors are a linear layer's")
      }
      guard module.shape.fits(inputs: size.inputs, outputs: size.outputs), !size.isConvolution || module.shape.input == size.input else {
        if isLayer, let other = unrecordedGroups(module, inputs: size.inputs, outputs: size.outputs) { throw other }
        throw mismatch(
          module.path,
          isLayer
            ? "has tensors of shapes \(module.shapes), the base's layer takes \(size.isConvolution ? "\(size.input)" : "\(size.inputs)") and gives \(size.outputs)"
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

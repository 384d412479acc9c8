import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

/// The weights of packed layers as a merge would store them, Ŵ + Δ rounded into the base's own codec: what merge-aware training computes with.
///
/// The pass forward sees the codes a merge will write; the way back takes rounding for what it is not, the identity (a straight-through
/// estimator), so the factors get the gradients that Ŵ + Δ would give them.
final class RoundedWeights {
  let merged = MergedWeights()
  private let model: Model
  private let layers: [Layer]
  private let pool = ScratchPool()

  private struct Layer {
    let linear: Linear
    let module: TrainedModule
    let stored: StoredTensor
  }

  /// - Throws: `.usage` where nothing is packed that is trained, and for methods whose change is no product of factors
  init(_ model: Model, _ trained: Trained) throws {
    self.model = model
    var layers: [Layer] = []
    for linear in model.linears {
      guard let module = trained.modules[linear.id] else { continue }
      guard !module.method.scalesOutputs, module.method(model.engine)?.pair != nil else {
        throw NibbleError.usage("\(.mergeAware) is for changes that are products of factors, which \(module.method.name)'s are not")
      }
      guard let stored = model.checkpoint.stored(linear), stored.isPacked, stored.shape == [linear.outputs, linear.inputs] else { continue }
      layers.append(Layer(linear: linear, module: module, stored: stored))
    }
    guard !layers.isEmpty else {
      throw NibbleError.usage("\(.mergeAware) trains for a merge into packed weights, and no layer that is trained here is packed")
    }
    self.layers = layers
  }

  /// Makes the weights anew, of the factors as they are now.
  ///
  /// - Throws: `.quality` for values that are not finite
  func update() throws {
    let team = model.engine.team
    for layer in layers {
      let (outputs, inputs) = (layer.linear.outputs, layer.linear.inputs)
      guard let pair = layer.module.method(model.engine)?.pair else { continue }
      let values = layer.linear.matrix.values()
      pair.add(to: values, team)
      guard LayerKernels.allFinite(values.start, count: values.count) else {
        throw NibbleError.quality("\(tensor: layer.stored.name.text) with its adapter has NaN or infinite values")
      }
      let task = EncodingTask(
        layer.stored.dtype, [outputs, inputs], place: "\(path: model.path): \(tensor: layer.stored.name.text)", rules: .nearest,
        search: model.checkpoint.encoder, offsets: model.checkpoint.offsets ?? .init(), threads: team.threads, pool: pool,
        measures: false, memory: Scratch())
      let codes = try layer.stored.encoding.codec.encoded(values.start, task)
      merged.matrices[layer.linear.id] = try Matrix(codes, layer.stored.dtype, rows: outputs, columns: inputs)
    }
  }

  /// Bytes of the weights it keeps, and of the largest while it is made.
  static func bytes(_ model: Model, _ trained: Trained) -> Int {
    let packed = model.linears.filter { trained.modules[$0.id] != nil && model.checkpoint.stored($0)?.isPacked == true }
    let kept = packed.reduce(0) { $0 + ($1.outputs * $1.inputs * 9 / 16) }
    return kept + 9 * (packed.map { $0.outputs * $0.inputs }.max() ?? 0)
  }
}

extension Checkpoint {
  /// The tensor of a layer's weight.
  fileprivate func stored(_ linear: Linear) -> StoredTensor? {
    tensor(called: linear.name + ".weight")
  }
}

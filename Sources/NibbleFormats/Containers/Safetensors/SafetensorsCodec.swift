import NibbleCore
import NibbleQuant

/// A codec that some layout of safetensors has a place for: how it spreads a tensor over several of a file.
protocol SafetensorsCodec: WeightCodec {
  /// The tensors that hold `target`, in the order in which they are written.
  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry]
  /// Whether something beside the codes tells what type the weights had.
  var tellsType: Bool { get }
}

extension SafetensorsCodec {
  var tellsType: Bool { false }
}

import NibbleCore
import NibbleQuant

/// A codec that bitsandbytes' layout has a place for: how it spreads a tensor over several of a safetensors file, and back.
protocol BitsAndBytesCodec: WeightCodec {
  /// Bits of a weight. A checkpoint is of one number of bits.
  static var bits: Int { get }
  /// Finds the tensors of this codec among the plain ones of a checkpoint and makes each one.
  ///
  /// - Parameters:
  ///   - tensors: every tensor of the checkpoint, names distinct
  ///   - dtype: the type of the weights before, for layouts that do not tell
  /// - Throws: `.badInput` naming the tensor whose parts do not fit together
  static func gather(_ tensors: [StoredTensor], _ dtype: DType) throws -> [StoredTensor]

  /// The tensors that hold `target`, in the order in which they are written.
  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry]
  /// Whether something beside the codes tells what type the weights had.
  var tellsType: Bool { get }
  /// Why a tensor has no place in the layout; nil if it has one.
  func layoutRefusal(_ target: TensorTarget) -> String?
  /// The text that describes a tensor, where the layout has one, given the bytes of its nested offset.
  func stateText(_ target: TensorTarget, offset: [UInt8]) -> [UInt8]
  /// Whether `text` describes a tensor; false for layouts without one.
  func isDescribed(by text: [UInt8], _ dtype: DType, _ shape: [Int], offset: [UInt8]) -> Bool
  /// What `quantization_config` says of 4 bits, and what the model computes in.
  func configuration(_ dtype: DType) -> (quantType: String, doubleQuant: Bool, computeDType: String)
}

extension BitsAndBytesCodec {
  var tellsType: Bool { false }
  func layoutRefusal(_ target: TensorTarget) -> String? { nil }
  func stateText(_ target: TensorTarget, offset: [UInt8]) -> [UInt8] { [] }
  func isDescribed(by text: [UInt8], _ dtype: DType, _ shape: [Int], offset: [UInt8]) -> Bool { false }
}

/// The codecs that bitsandbytes knows.
enum BitsAndBytesLayout {
  static let all: [any BitsAndBytesCodec.Type] = [BlockCodec.self, Int8Rows.self]

  /// The tensors of a checkpoint with those of each packed weight made one.
  static func gather(_ tensors: [StoredTensor], _ dtype: DType) throws -> [StoredTensor] {
    try all.reduce(tensors) { try $1.gather($0, dtype) }
  }
}

extension WeightEncoding {
  /// The codec as bitsandbytes stores it; nil if it cannot.
  var bitsAndBytes: (any BitsAndBytesCodec)? { codec as? any BitsAndBytesCodec }
}

extension TensorTarget {
  /// Throws unless `text` is a quantization state that describes this tensor.
  ///
  /// - Parameter offset: the bytes of the nested offset
  func checkState(_ text: [UInt8], offset: [UInt8], _ place: String) throws {
    guard encoding.isPacked else { return }
    guard encoding.bitsAndBytes?.isDescribed(by: text, dtype, shape, offset: offset) == true else {
      throw NibbleError.integrity("\(path: place): \(tensor: name.text): its state text does not describe it")
    }
  }
}

import NibbleCore
import NibbleQuant

/// safetensors with packed tensors in bitsandbytes' layout, one file or a Hugging Face folder.
struct BitsAndBytesFolder: SafetensorsContainer {
  let name = "bnb"
  let holdsCodes = true

  /// A checkpoint is of 8 bits or of 4, and has no place for other codecs.
  func check(_ job: StreamJob) throws {
    func refuse(_ target: TensorTarget, _ why: MessageText) -> NibbleError {
      .usage("\(path: job.source.path): \(subject: target.name.text) is \(why)")
    }
    let packed = job.items.map(\.target).filter(\.encoding.isPacked)
    var widest: (target: TensorTarget, bits: Int)?
    for target in packed {
      guard let codec = target.encoding.bitsAndBytes else {
        throw refuse(target, "\(target.encoding.name), which bitsandbytes has no place for")
      }
      if let why = codec.layoutRefusal(target) { throw refuse(target, "\(why), which bitsandbytes has no place for") }
      if type(of: codec).bits > widest?.bits ?? 0 { widest = (target, type(of: codec).bits) }
    }
    let all = packed.map(\.encoding)
    if let widest, !takes(widest.target.encoding, beside: all) {
      throw refuse(
        widest.target, "\(widest.target.encoding.name), which has no place among the 4-bit tensors of a bitsandbytes checkpoint")
    }
    guard job.changing.whenLost != .promote || takes(promoted, beside: all) else {
      throw NibbleError.usage(
        "\(.whenLost, "promote") writes int8 tensors, which have no place among a bitsandbytes checkpoint's 4-bit ones; use 16bit"
      )
    }
  }

  func takes(_ encoding: WeightEncoding, beside others: [WeightEncoding]) -> Bool {
    let bits = Set(([encoding] + others).filter(\.isPacked).map { $0.bitsAndBytes.map { type(of: $0).bits } })
    return bits.count <= 1 && !bits.contains(nil)
  }

  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry] {
    target.encoding.bitsAndBytes?.entries(of: target) ?? [.init(plain: target)]
  }

  func config(_ job: StreamJob) -> JSON? {
    guard let config = job.source.config else { return nil }
    if config["quantization_config"] != nil, job.items.allSatisfy({ $0.source.encoding == $0.target.encoding }) { return nil }
    guard let quantization = QuantizationConfig.json(job.items.map(\.target), family: job.source.family) else { return nil }
    return config.setting("quantization_config", to: quantization)
  }
}

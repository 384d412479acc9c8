import NibbleCore
import NibbleQuant

/// safetensors of plain tensors, one file or a Hugging Face folder.
struct PlainSafetensors: SafetensorsContainer {
  let name = "safetensors"
  let holdsCodes = false

  func check(_ job: StreamJob) throws {
    let packed = job.items.filter { $0.target.encoding.isPacked }
    guard let first = packed.first else { return }
    let way: MessageText =
      packed.contains { $0.target.encoding.bitsAndBytes.map { type(of: $0).bits } != 4 }
      ? "dequantize" : "use \(.format, "bnb"), which keeps their codes, or dequantize"
    throw NibbleError.usage(
      "\(path: job.source.path): \(packed.count) packed tensors (\(subject: first.target.name.text), …) have no place in plain safetensors; "
        + way)
  }

  func takes(_ encoding: WeightEncoding, beside others: [WeightEncoding]) -> Bool { encoding.isPlain }

  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry] { [.init(plain: target)] }

  func record(_ job: StreamJob, _ provenance: JSON?) -> SideRecord? { nil }

  func config(_ job: StreamJob) -> JSON? {
    guard var config = job.source.config else { return nil }
    if let name = job.dtypeName {
      for key in ["dtype", "torch_dtype"] where config[key] != nil { config = config.setting(key, to: JSON(name)) }
    }
    config = config.removing("quantization_config").removing("quantization")
    return config == job.source.config ? nil : config
  }
}

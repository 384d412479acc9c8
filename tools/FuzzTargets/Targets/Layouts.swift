import NibbleCore
import NibbleFormats

/// The weights of a folder in another engine's layout; the choice is what its configuration says.
func fuzzLayouts(_ input: Input) throws {
  _ = Folder.write("config.json", Array(settings[Int(input.choice) % settings.count].utf8))
  _ = Folder.write("model.safetensors", input.bytes)
  let checkpoint = try Checkpoint.open(Folder.path)
  try plan(checkpoint)
  // Sections have as many bytes as in the file, zeros twice as many.
  guard checkpoint.tensors.allSatisfy({ $0.plainBytes <= 1 << 22 }) else { return }
  _ = try checkpoint.verify(threads: 1)
}

/// In the order of seeds.py.
private let settings = [
  #"{"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}"#,
  #"{"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": true, "checkpoint_format": "gptq_v2"}}"#,
  #"{"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}}"#,
  #"{"quantization": {"bits": 4, "group_size": 32}}"#,
  #"{"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"symmetric": false}}}}}"#,
]

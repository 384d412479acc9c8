import NibbleAdapters
import NibbleCore

/// An adapter's configuration, beside real factors; or (choice 1) the factors' file beside a real configuration.
func fuzzAdapterConfig(_ input: Input) throws {
  let isConfig = input.choice & 1 == 0
  let config = isConfig ? input.bytes : config
  _ = Folder.write("adapter_config.json", config)
  _ = Folder.write("adapter_model.safetensors", isConfig ? factors : input.bytes)
  let parsed = try AdapterConfig(JSON.parse(config), place: "adapter_config.json")
  for path in ["model.layers.0.self_attn.q_proj", "lm_head", ""] {
    let rank = try parsed.rank(of: path)
    expect(rank > 0, "a rank of \(rank)")
    _ = try parsed.scale(of: path, rank: rank)
  }
  let adapter = try AdapterFile.open(Folder.path)
  for module in adapter.modules {
    let factors = ["lora_A", "lora_B"].compactMap { module.parts[$0] }
    expect(factors.count == 2 && factors.allSatisfy { $0.count % max(module.rank, 1) == 0 }, "factors fit their rank")
  }
}

private let config = fixture("adapters/dec_lora_qv/adapter_config.json")
private let factors = fixture("adapters/dec_lora_qv/adapter_model.safetensors")

import NibbleCore
import NibbleQuant

/// safetensors with packed tensors in the layout `pack-quantized` of the compressed-tensors library, which transformers and vLLM load
/// without another package: whole numbers of 4 bits, one scheme for all.
struct CompressedTensorsFolder: Int4Container {
  let name = "compressed-tensors"
  let tensors = "compressed tensors"
  let zeros: [Int4Groups.Zero] = [.none, .int]
  let ownScheme = PackingScheme(groupSize: 128, zeros: .none)

  func check(_ job: StreamJob) throws { try checkScheme(job) }

  func refusal(_ codec: Int4Groups, _ target: TensorTarget) -> MessageText? { nil }

  func warnings(_ job: StreamJob) -> [Warning] {
    guard codec(job)?.zero == .int, !job.output.isSingleFile else { return fusedWarnings(job) }
    // As of transformers 5.23, which makes room for zero points that are not packed.
    return fusedWarnings(job) + [
      .init(.compatibility, "\(path: job.output.path): transformers does not load compressed tensors with zero points")
    ]
  }

  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry] {
    guard let codec = target.encoding.codec as? Int4Groups, let module = SkippedModules.module(target.name.text) else {
      return [.init(plain: target)]
    }
    let (rows, columns) = (target.shape[0], target.shape[1])
    let groups = columns / codec.length(columns: columns)
    func entry(_ ending: String, _ dtype: DType, _ shape: [Int], _ part: SafetensorsLayout.Part) -> SafetensorsLayout.Entry {
      .init(ByteName(module + ending), dtype, shape, part)
    }
    var entries = [
      entry(CompressedLayout.packed, .i32, [rows, columns / 8], .ordered(.codes, .swapped)),
      entry(CompressedLayout.scale, codec.scale, [rows, groups], .section(.groupScales)),
      entry(CompressedLayout.shape, .i64, [2], .constant(CompressedLayout.bytes(of: [rows, columns]))),
    ]
    if codec.zero == .int {
      let order = CompressedLayout.zerosOrder(rows: rows, groups: groups)
      entries.append(entry(CompressedLayout.zeros, .i32, [(rows + 7) / 8, groups], .ordered(.zeros, order)))
    }
    return entries
  }

  func config(_ job: StreamJob) -> JSON? {
    guard !keepsConfig(job), let config = job.source.config, let codec = codec(job) else { return nil }
    let targets = job.items.map(\.target), names = Set(targets.map(\.name))
    var ignored = targets.filter { $0.encoding.isPlain && $0.dtype.isFloat }.compactMap(\.module).flatMap { job.source.moduleSpellings($0) }
    // A head that shares the embedding's weight is in no file.
    ignored += (job.source.family?.tiedHeads ?? NameGuess.tiedHeads).filter { !names.contains(ByteName($0 + ".weight")) }
    let weights: JSON = [
      "actorder": .null, "block_structure": .null, "dynamic": false, "group_size": codec.size == 0 ? .null : JSON(codec.size),
      "num_bits": 4, "observer": "minmax", "observer_kwargs": .object([]),
      "strategy": JSON(codec.size == 0 ? "channel" : "group"),
      "symmetric": .bool(codec.zero == .none), "type": "int",
    ]
    let group: JSON = ["input_activations": .null, "output_activations": .null, "targets": ["Linear"], "weights": weights]
    let quantization: JSON = [
      "config_groups": ["group_0": group], "format": "pack-quantized", "global_compression_ratio": .null, "ignore": JSON(ignored),
      "kv_cache_scheme": .null, "quant_method": JSON(CompressedLayout.method), "quantization_status": "compressed",
    ]
    return config.removing("quantization").setting("quantization_config", to: quantization)
  }
}

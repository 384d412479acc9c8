import NibbleCore
import NibbleQuant

/// safetensors with packed tensors in the layout `pack-quantized` of the compressed-tensors library, which transformers and vLLM load
/// without another package: whole numbers of 4 bits, symmetric, one scheme for all.
struct CompressedTensorsFolder: SafetensorsContainer {
  let name = "compressed-tensors"
  let holdsCodes = true

  func check(_ job: StreamJob) throws {
    func refuse(_ target: TensorTarget, _ why: MessageText) -> NibbleError {
      .usage("\(path: job.source.path): \(subject: target.name.text) is \(why)")
    }
    let packed = job.items.map(\.target).filter(\.encoding.isPacked)
    for target in packed {
      guard let codec = target.encoding.codec as? Int4Groups else {
        throw refuse(target, "\(target.encoding.name), which has no place among compressed tensors; int4 has")
      }
      guard codec.zero == .none else {
        throw refuse(target, "int4 with zeros; compressed tensors are written symmetric (\(.symmetric))")
      }
      guard CompressedLayout.module(of: target.name.text) != nil else { throw refuse(target, "int4 and not called '….weight'") }
      guard target.shape[1] % 8 == 0 else { throw refuse(target, "int4 with rows of \(target.shape[1]), no multiple of 8") }
      guard !target.isTransposed else {
        throw refuse(
          target, "the weight of a Conv1D layer, which compressed-tensors does not replace; keep it, or write a block file")
      }
    }
    guard job.changing.whenLost != .promote else {
      throw NibbleError.usage(
        "\(.whenLost, "promote") writes int8 tensors, which have no place among compressed tensors; use 16bit")
    }
    guard let first = packed.first, let other = packed.first(where: { !takes($0.encoding, beside: [first.encoding]) }) else {
      return
    }
    throw refuse(
      other,
      "\(other.encoding.summary), \(quoted(first.name.text)) \(first.encoding.summary): compressed tensors are of one scheme")
  }

  func takes(_ encoding: WeightEncoding, beside others: [WeightEncoding]) -> Bool {
    guard encoding.isPacked else { return true }
    guard let codec = encoding.codec as? Int4Groups, codec.zero == .none else { return false }
    return others.filter(\.isPacked).allSatisfy {
      ($0.codec as? Int4Groups)?.size == codec.size && ($0.codec as? Int4Groups)?.zero == codec.zero
    }
  }

  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry] {
    guard let codec = target.encoding.codec as? Int4Groups else { return [.init(plain: target)] }
    let module = CompressedLayout.module(of: target.name.text) ?? target.name.text
    let (codes, scales) = (target.sections[0], target.sections[1])
    let (rows, columns) = (target.shape[0], target.shape[1])
    return [
      .init(
        name: ByteName(module + CompressedLayout.packed), dtype: .i32, shape: [rows, columns / 8], length: codes.length,
        part: .ordered(.codes, .swapped)),
      .init(
        name: ByteName(module + CompressedLayout.scale), dtype: codec.scale, shape: [rows, columns / codec.length(columns: columns)],
        length: scales.length, part: .section(.groupScales)),
      .init(
        name: ByteName(module + CompressedLayout.shape), dtype: .i64, shape: [2], length: 16,
        part: .constant(CompressedLayout.bytes(of: [rows, columns]))),
    ]
  }

  func config(_ job: StreamJob) -> JSON? {
    guard let config = job.source.config, let quantization = Self.configuration(job.items.map(\.target), job.source.family) else {
      return nil
    }
    return config.setting("quantization_config", to: quantization)
  }

  /// vLLM computes q, k and v, or gate and up, in one product: they must share a scheme.
  func warnings(_ job: StreamJob) -> [Warning] {
    let linears = job.items.map(\.target).filter { $0.module != nil }
    for fused in [["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]] {
      var packed: [String: Set<Bool>] = [:]
      for target in linears {
        guard let module = target.module, let name = fused.first(where: { module.hasSuffix("." + $0) }) else { continue }
        packed[String(module.dropLast(name.count)), default: []].insert(target.encoding.isPacked)
      }
      if let layer = packed.filter({ $0.value.count > 1 }).keys.min() {
        return [
          .init(
            .compatibility,
            "\(path: job.output.path): vLLM computes \(fused.joined(separator: ", ")) together and does not load the folder: in "
              + "\(subject: String(layer.dropLast())) some of them are packed and some are not")
        ]
      }
    }
    return []
  }

  /// - Returns: nil if nothing is packed
  private static func configuration(_ targets: [TensorTarget], _ family: ModelFamily?) -> JSON? {
    guard let codec = targets.lazy.compactMap({ $0.encoding.codec as? Int4Groups }).first else { return nil }
    let names = Set(targets.map(\.name))
    var ignored = targets.filter { $0.encoding.isPlain && $0.dtype.isFloat }.compactMap(\.module)
    // A head that shares the embedding's weight is in no file.
    ignored += (family?.tiedHeads ?? NameGuess.tiedHeads).filter { !names.contains(ByteName($0 + ".weight")) }
    let weights: JSON = [
      "actorder": .null, "block_structure": .null, "dynamic": false, "group_size": codec.size == 0 ? .null : JSON(codec.size),
      "num_bits": 4, "observer": "minmax", "observer_kwargs": .object([]),
      "strategy": JSON(codec.size == 0 ? "channel" : "group"),
      "symmetric": true, "type": "int",
    ]
    let group: JSON = ["input_activations": .null, "output_activations": .null, "targets": ["Linear"], "weights": weights]
    return [
      "config_groups": ["group_0": group], "format": "pack-quantized", "global_compression_ratio": .null, "ignore": JSON(ignored),
      "kv_cache_scheme": .null, "quant_method": JSON(CompressedLayout.method), "quantization_status": "compressed",
    ]
  }
}

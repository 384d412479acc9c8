import NibbleCore
import NibbleQuant

/// The `quantization_config` with which transformers loads a packed checkpoint.
enum QuantizationConfig {
  /// - Returns: nil if nothing is packed
  static func json(_ targets: [TensorTarget], family: ModelFamily?) -> JSON? {
    guard let first = targets.first(where: { $0.encoding.isPacked }), let codec = first.encoding.bitsAndBytes else { return nil }
    let four = codec.configuration(first.dtype)
    let isEight = type(of: codec).bits == 8
    let storage =
      [DType.bf16: "bfloat16", .f16: "float16", .f32: "float32", .i8: "int8", .f64: "float64"][
        first.foreign.storage] ?? "uint8"
    return [
      "_load_in_4bit": JSON.bool(!isEight), "_load_in_8bit": JSON.bool(isEight),
      "bnb_4bit_compute_dtype": JSON(four.computeDType), "bnb_4bit_quant_storage": JSON(storage),
      "bnb_4bit_quant_type": JSON(four.quantType), "bnb_4bit_use_double_quant": JSON.bool(four.doubleQuant),
      "llm_int8_enable_fp32_cpu_offload": false, "llm_int8_has_fp16_weight": false,
      "llm_int8_skip_modules": skippedModules(targets, family).map { JSON($0) } ?? .null, "llm_int8_threshold": .number("6.0"),
      "load_in_4bit": JSON.bool(!isEight), "load_in_8bit": JSON.bool(isEight), "quant_method": "bitsandbytes",
    ]
  }

  /// nil where transformers' own rule leaves out what is kept here; else every kept module by name, because a list
  /// replaces that rule; also output heads that share an embedding's weight, which no file stores.
  static func skippedModules(_ targets: [TensorTarget], _ family: ModelFamily?) -> [String]? {
    let names = Set(targets.map(\.name)), called = { (module: String) in family?.inModules(module) ?? module }
    var followsRule = family != nil && family?.part == nil
    var kept: [String] = []
    for target in targets {
      guard let module = target.module, family?.isBeyondBitsAndBytes(target.name.text) != true else { continue }
      let byRule = family?.packs(target.name.text, hasBias: names.contains(ByteName(module + ".bias"))) ?? false
      if byRule != target.encoding.isPacked { followsRule = false }
      if target.encoding.isPlain { kept.append(called(module)) }
    }
    if followsRule { return nil }
    let packed = targets.filter { $0.encoding.isPacked }.compactMap(\.module).map(called)
    for head in family?.tiedHeads ?? NameGuess.tiedHeads where !names.contains(ByteName(head + ".weight")) {
      let entry = SkippedModules([head])
      if !packed.contains(where: entry.covers) { kept.append(head) }
    }
    return kept
  }
}

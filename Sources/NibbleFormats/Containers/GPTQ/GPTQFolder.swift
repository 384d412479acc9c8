import NibbleCore
import NibbleQuant

/// A folder in GPTQ's layout.
///
/// Symmetric weights are written with `checkpoint_format` `gptq`, which every program reads, those with zero points with `gptq_v2`,
/// which has a place for zeros of 0.
struct GPTQFolder: Int4Container {
  let name = "gptq"
  let endings: [String] = []
  let tensors = "GPTQ tensors"
  let zeros: [Int4Groups.Zero] = [.none, .int]
  let ownScheme = PackingScheme(groupSize: 128, zeros: .none)

  func groupScale(of dtype: DType) -> DType { .f16 }

  func check(_ job: StreamJob) throws {
    try needConfig(job)
    try checkScheme(job)
  }

  func refusal(_ codec: Int4Groups, _ target: TensorTarget) -> MessageText? {
    if target.shape[0] % 8 != 0 { return "int4 with \(target.shape[0]) rows, no multiple of 8" }
    if codec.scale != .f16 {
      return "int4 with scales of \(codec.scale.rawValue), and GPTQ tensors have F16; quantize with \(.format, name)"
    }
    return nil
  }

  func warnings(_ job: StreamJob) -> [Warning] { fusedWarnings(job) }

  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry] {
    guard let codec = target.encoding.codec as? Int4Groups, let module = SkippedModules.module(target.name.text) else {
      return [.init(plain: target)]
    }
    let (outputs, inputs) = (target.shape[0], target.shape[1])
    let length = codec.length(columns: inputs), groups = inputs / length
    let layout = QWeights(layout: tensors, groupSize: codec.size, isSymmetric: codec.zero == .none, packsInputs: true)
    let zeros: SafetensorsLayout.Part =
      codec.zero == .none
      ? .constant([UInt8](repeating: 0x77, count: groups * outputs / 2))
      : .ordered(.zeros, layout.zerosOrder(outputs: outputs, groups: groups))
    let index = (0..<inputs).flatMap { input in (0..<4).map { UInt8(truncatingIfNeeded: (input / length) >> (8 * $0)) } }
    func entry(_ ending: String, _ dtype: DType, _ shape: [Int], _ part: SafetensorsLayout.Part) -> SafetensorsLayout.Entry {
      .init(ByteName(module + ending), dtype, shape, part)
    }
    return [
      entry(QWeights.codes, .i32, [inputs / 8, outputs], .ordered(.codes, layout.codesOrder(outputs: outputs, inputs: inputs))),
      entry(QWeights.zeros, .i32, [groups, outputs / 8], zeros),
      entry(QWeights.scales, .f16, [groups, outputs], .ordered(.groupScales, .turned(rows: outputs, columns: groups, width: 2))),
      entry(QWeights.index, .i32, [inputs], .constant(index)),
    ]
  }

  func config(_ job: StreamJob) -> JSON? {
    guard !keepsConfig(job), let config = job.source.config, let codec = codec(job) else { return nil }
    let targets = job.items.map(\.target)
    let kept = targets.filter { $0.encoding.isPlain && $0.dtype.isFloat && !NameGuess.isEmbeddingOrHead($0.name.text) }
    let heads = (job.source.family?.tiedHeads ?? NameGuess.tiedHeads).map { ByteName($0 + ".weight") }
    let quantization: JSON = [
      "bits": 4, "checkpoint_format": JSON(codec.zero == .none ? GPTQLayout.lessOne : GPTQLayout.plainZeros), "desc_act": false,
      "dynamic": .object(kept.compactMap(\.module).flatMap { job.source.moduleSpellings($0) }.map { ("-:^\(Self.pattern($0))$", .object([])) }),
      "group_size": codec.size == 0 ? .number("-1") : JSON(codec.size),
      "lm_head": .bool(targets.contains { $0.encoding.isPacked && heads.contains($0.name) }),
      "meta": ["quantizer": [JSON("nibble:\(nibbleVersion)")]], "pack_dtype": "int32", "quant_method": JSON(GPTQLayout.method),
      "sym": .bool(codec.zero == .none),
    ]
    return config.removing("quantization").setting("quantization_config", to: quantization)
  }

  /// A regular expression that only `module` matches.
  private static func pattern(_ module: String) -> String {
    module.unicodeScalars.map { $0.properties.isAlphabetic || $0.properties.numericType != nil || $0 == "_" ? String($0) : "\\\($0)" }.joined()
  }
}

import NibbleCore
import NibbleQuant

/// A folder in MLX's layout of mode `affine`, as mlx-lm writes it.
struct MLXFolder: Int4Container {
  let name = "mlx"
  let endings: [String] = []
  let tensors = "MLX tensors"
  let zeros: [Int4Groups.Zero] = [.offset]
  let ownScheme = PackingScheme(groupSize: 64, zeros: .offset)

  /// MLX computes in the type of scales.
  func groupScale(of dtype: DType) -> DType { [.bf16, .f16].contains(dtype) ? dtype : .f32 }

  func check(_ job: StreamJob) throws {
    try needConfig(job)
    try checkScheme(job)
  }

  func refusal(_ codec: Int4Groups, _ target: TensorTarget) -> MessageText? {
    MLXLayout.sizes.contains(codec.size) ? nil : "\(codec.summary), and MLX has groups of \(MLXLayout.sizes) (\(.groupSize))"
  }

  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry] {
    guard let codec = target.encoding.codec as? Int4Groups, let module = SkippedModules.module(target.name.text) else {
      return [.init(plain: target)]
    }
    let (rows, columns) = (target.shape[0], target.shape[1])
    let groups = [rows, columns / codec.length(columns: columns)]
    return [
      .init(target.name, .u32, [rows, columns / 8], .ordered(.codes, .swapped)),
      .init(ByteName(module + MLXLayout.scales), codec.scale, groups, .section(.groupScales)),
      .init(ByteName(module + MLXLayout.offsets), codec.scale, groups, .section(.offsets)),
    ]
  }

  /// mlx-lm writes its settings under both names.
  func config(_ job: StreamJob) -> JSON? {
    guard !keepsConfig(job), let config = job.source.config, let codec = codec(job) else { return nil }
    let settings: JSON = ["group_size": JSON(codec.size), "bits": 4, "mode": "affine"]
    return config.setting("quantization", to: settings).setting("quantization_config", to: settings)
  }
}

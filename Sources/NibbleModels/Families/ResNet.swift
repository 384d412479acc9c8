import NibbleCompute
import NibbleCore

/// Residual networks of images: ResNet-18 to 152 as transformers and torchvision have them (`resnet`), and the smaller ones for CIFAR-10
/// (`resnet-cifar`), whose stem is 3 x 3 and whose shortcuts have no weights.
enum ResNet: Architecture {
  static let modelTypes = ["resnet", "resnet-cifar"]

  /// How a checkpoint names its layers.
  private enum Names {
    case transformers, torchvision

    typealias Unit = (convolution: String, norm: String)

    var stem: Unit {
      switch self {
      case .transformers: Self.unit("resnet.embedder.embedder")
      case .torchvision: ("conv1", "bn1")
      }
    }

    /// - Parameter index: of the unit in its block; nil for the shortcut
    func unit(stage: Int, block: Int, _ index: Int?) -> Unit {
      switch self {
      case .transformers: Self.unit("resnet.encoder.stages.\(stage).layers.\(block)." + (index.map { "layer.\($0)" } ?? "shortcut"))
      case .torchvision:
        switch index {
        case let index?: ("layer\(stage + 1).\(block).conv\(index + 1)", "layer\(stage + 1).\(block).bn\(index + 1)")
        case nil: ("layer\(stage + 1).\(block).downsample.0", "layer\(stage + 1).\(block).downsample.1")
        }
      }
    }

    private static func unit(_ path: String) -> Unit { (path + ".convolution", path + ".normalization") }

    /// What the head may be called.
    var heads: [String] {
      switch self {
      case .transformers: ["classifier.1"]
      case .torchvision: ["fc", "linear"]
      }
    }

    init(_ source: WeightSource) { self = source.has("conv1.weight") ? .torchvision : .transformers }
  }

  /// What a configuration says.
  private struct Shape {
    var channels: Int
    var stem: Int
    var widths: [Int]
    var depths: [Int]
    var isBottleneck: Bool
    var isSmall: Bool
    var stridesFirst: Bool
    var stridesEarly: Bool
    var padsShortcuts: Bool
  }

  private static func shape(_ config: ConfigReader) throws -> Shape {
    try config.checkQuantization()
    let isSmall = config["model_type"]?.string == "resnet-cifar"
    try config.refuse(["hidden_act"], unless: ["relu"])
    let layer = try config.string("layer_type") ?? (isSmall ? "basic" : "bottleneck")
    guard ["basic", "bottleneck"].contains(layer) else { throw config.fail("\(key: "layer_type") = \(quoted(layer)) is not implemented") }
    let shortcut = try config.string("shortcut_type") ?? (isSmall ? "A" : "B")
    guard ["A", "B"].contains(shortcut) else { throw config.fail("\(key: "shortcut_type") = \(quoted(shortcut)) is not implemented") }
    guard isSmall || shortcut == "B" else { throw config.fail("\(key: "shortcut_type") is a key of model_type 'resnet-cifar'") }
    let widths = try config.numbers("hidden_sizes", Limits.width, default: isSmall ? [16, 32, 64] : [256, 512, 1024, 2048])
    let depths = try config.numbers("depths", Limits.layers, default: isSmall ? [3, 3, 3] : [3, 4, 6, 3])
    guard !depths.isEmpty, widths.count == depths.count else {
      throw config.fail("\(key: "depths") has \(depths.count) stages, hidden_sizes \(widths.count)")
    }
    guard widths.count <= 64 else {
      throw config.fail("\(key: "depths") has \(depths.count) stages; at most 64 are taken")
    }
    return Shape(
      channels: try config.int("num_channels", 1...64, default: 3),
      stem: try config.int("embedding_size", Limits.width, default: isSmall ? widths[0] : 64), widths: widths, depths: depths,
      isBottleneck: layer == "bottleneck", isSmall: isSmall, stridesFirst: try config.bool("downsample_in_first_stage", default: false),
      stridesEarly: try config.bool("downsample_in_bottleneck", default: false), padsShortcuts: shortcut == "A")
  }

  static func network(_ config: ConfigReader, _ source: WeightSource, _ engine: Engine) throws -> any Network {
    let shape = try shape(config), names = Names(source)
    let size = shape.isSmall ? 3 : 7
    let stem = try ConvolutionUnit(names.stem, inputs: shape.channels, outputs: shape.stem, size: size, stride: shape.isSmall ? 1 : 2, source)
    var blocks: [ResidualBlock] = []
    var inputs = shape.stem
    for (stage, (outputs, depth)) in zip(shape.widths, shape.depths).enumerated() {
      for block in 0..<depth {
        let stride = block == 0 && (stage > 0 || shape.stridesFirst) ? 2 : 1
        blocks.append(
          try Self.block(shape, inputs: inputs, outputs: outputs, stride: stride, config, source) { names.unit(stage: stage, block: block, $0) })
        inputs = outputs
      }
    }
    let head = try head(config, names, width: inputs, source)
    try source.checkNothingLeft(ignoring: Pattern(#"\.num_batches_tracked$"#))
    let pool = shape.isSmall ? nil : Sliding(window: (3, 3), stride: 2, padding: 1)
    return ResidualNetwork(ResidualWeights(channels: shape.channels, stem: stem, pool: pool, blocks: blocks), head, engine)
  }

  private static func block(
    _ shape: Shape, inputs: Int, outputs: Int, stride: Int, _ config: ConfigReader, _ source: WeightSource, _ name: (Int?) -> Names.Unit
  ) throws -> ResidualBlock {
    func unit(_ index: Int?, _ inputs: Int, _ outputs: Int, _ size: Int, _ stride: Int, isActivated: Bool = true) throws -> ConvolutionUnit {
      try ConvolutionUnit(name(index), inputs: inputs, outputs: outputs, size: size, stride: stride, isActivated: isActivated, source)
    }
    var shortcut = Shortcut.identity
    if inputs != outputs || stride != 1 {
      if shape.padsShortcuts {
        guard outputs >= inputs, (outputs - inputs) % 2 == 0 else {
          throw config.fail("\(key: "hidden_sizes"): a shortcut of type 'A' cannot pad \(inputs) channels to \(outputs)")
        }
        shortcut = .padded(stride: stride)
      } else {
        shortcut = .unit(try unit(nil, inputs, outputs, 1, stride, isActivated: false))
      }
    }
    guard shape.isBottleneck else {
      return ResidualBlock(
        units: [try unit(0, inputs, outputs, 3, stride), try unit(1, outputs, outputs, 3, 1, isActivated: false)], shortcut: shortcut)
    }
    // As transformers has it, a quarter of the outputs.
    let inner = outputs / 4
    guard inner > 0 else { throw config.fail("\(key: "hidden_sizes"): \(outputs) leaves a bottleneck no channels") }
    let early = shape.stridesEarly
    return ResidualBlock(
      units: [
        try unit(0, inputs, inner, 1, early ? stride : 1), try unit(1, inner, inner, 3, early ? 1 : stride),
        try unit(2, inner, outputs, 1, 1, isActivated: false),
      ], shortcut: shortcut)
  }

  private static func head(_ config: ConfigReader, _ names: Names, width: Int, _ source: WeightSource) throws -> Head {
    let known = ["ResNetForImageClassification", "ResNetModel"]
    let named = config["architectures"] == nil ? nil : try config.architectureClass()
    if let named, !known.contains(named) { throw config.fail("architecture \(quoted(named)) is not implemented") }
    guard let name = names.heads.first(where: { source.has($0 + ".weight") }) ?? (named == known[0] ? names.heads[0] : nil) else { return .none }
    let labels = try config.labelCount()
    return .classification(
      ClassificationHead(
        token: .mean, dense: [], output: try source.linear(name, outputs: labels, inputs: width, bias: .required),
        problem: try config.problem(labels: labels)))
  }
}

extension ConfigReader {
  /// A list of whole numbers in `range`.
  fileprivate func numbers(_ key: String, _ range: ClosedRange<Int>, default fallback: [Int]) throws -> [Int] {
    guard let value = self[key] else { return fallback }
    let numbers = value.array?.map { $0.int ?? -1 } ?? []
    guard !numbers.isEmpty, numbers.allSatisfy(range.contains) else { throw wrong(key, value, "a list of whole numbers from \(range.lowerBound) to \(range.upperBound)") }
    return numbers
  }
}

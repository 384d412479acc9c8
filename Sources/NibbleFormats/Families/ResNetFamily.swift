import NibbleCore

extension ModelFamily {
  /// ResNet, in transformers' and in torchvision's names, and its small form for CIFAR-10. Convolutions are packed, but for the stem, which
  /// sees the pixels and is a thousandth of the weights.
  static let resNet: ModelFamily? = {
    var family = try? ModelFamily(
      "ResNet", runs: ["resnet", "resnet-cifar"], linear: #"(?!)"#, heads: #"^(classifier\.1|fc|linear)\.weight$"#, tiedHeads: [],
      prefix: { _ in "resnet." })
    family?.takesImages = true
    family?.convolution = try? Pattern(
      #"(^|\.)stages\.\d+\.layers\.\d+\.(layer\.\d+|shortcut)\.convolution\.weight$"#
        + #"|^layer\d+\.\d+\.(conv\d+|downsample\.0)\.weight$"#)
    return family
  }()
}

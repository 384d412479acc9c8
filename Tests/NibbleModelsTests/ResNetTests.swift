import NibbleCompute
import NibbleCore
import NibbleEvaluation
import NibbleFormats
import TestSupport
import Testing

@testable import NibbleModels

@Suite("Residual networks")
struct ResNetTests {
  let folder = TemporaryFolder()
  static let forms = ["basic", "bottleneck", "small"]

  /// Images of the fixture, 14 x 10, and what torch says of them.
  private static func asked(_ form: String) throws -> (images: [Image], scores: [Float]) {
    let file = try SmallSafetensors(fixture("images/logits.safetensors"))
    let pixels = file.floats("images"), size = 3 * 14 * 10
    return (
      try (0..<3).map { try Image(channels: 3, height: 14, width: 10, Array(pixels[$0 * size..<($0 + 1) * size])) }, file.floats(form)
    )
  }

  private static func scores(_ model: Model, _ images: [Image]) throws -> [Float] {
    try RowScores(model, images.map { .init(.image($0), targets: [0]) }, adapters: []).scores.flatMap { $0 }
  }

  @Test("say what transformers and torch say", arguments: forms, [1, 3])
  func scores(_ form: String, _ threads: Int) throws {
    let (images, expected) = try Self.asked(form)
    let found = try Self.scores(Model(fixture("images/" + form), threads: threads), images)
    let greatest = expected.map(abs).max() ?? 0
    #expect(found.count == expected.count)
    for (x, y) in zip(found, expected) { #expect(abs(x - y) <= 1e-5 * greatest, "\(x), \(y)") }
  }

  @Test("say the same of images of several sizes in one batch as of each alone", arguments: forms)
  func sizes(_ form: String) throws {
    let model = try Model(fixture("images/" + form), threads: 2)
    let images = try [(14, 10), (5, 23), (1, 1)].map { height, width in
      try Image(channels: 3, height: height, width: width, (0..<3 * height * width).map { Float($0 % 11) / 5 - 1 })
    }
    let together = try Self.scores(model, images), alone = try images.flatMap { try Self.scores(model, [$0]) }
    for (x, y) in zip(together, alone) { #expect(abs(x - y) <= 1e-5) }
  }

  @Test("run on packed convolutions as on what these decode to", arguments: forms)
  func packed(_ form: String) throws {
    let (images, _) = try Self.asked(form)
    _ = try StreamJob.quantize(
      Checkpoint.open(fixture("images/" + form)), QuantizeOptions(), to: OutputSpec(path: folder.file("m.nbl"), format: nil, default: .nbl)
    ).run()
    let stored = try Checkpoint.open(folder.file("m.nbl"))
    // All convolutions but the stem, and the head.
    #expect(stored.packed.count == stored.tensors.count { $0.shape.count == 4 })
    _ = try StreamJob.dequantize(stored, dtype: .f32, to: OutputSpec(path: folder.file("d"), format: .safetensors, default: .safetensors)).run()
    let (found, twin) = (try Self.scores(Model(folder.file("m.nbl")), images), try Self.scores(Model(folder.file("d")), images))
    let greatest = twin.map(abs).max() ?? 0
    for (x, y) in zip(found, twin) { #expect(abs(x - y) <= 1e-5 * greatest, "\(x), \(y)") }
  }

  @Test(
    "are refused by name where their configuration asks for what is not there",
    arguments: [
      (#""hidden_act": "gelu""#, "hidden_act"), (#""layer_type": "dense""#, "layer_type"), (#""depths": [1]"#, "depths"), (#""depths": []"#, "depths"),
      (#""hidden_sizes": [4, -6]"#, "hidden_sizes"), (#""hidden_sizes": [4, 6]"#, "shape"), (#""hidden_sizes": [4, 7]"#, "cannot pad"), (#""shortcut_type": "C""#, "shortcut_type"),
      (#""hidden_sizes": 5"#, "hidden_sizes"), (#""depths": [1, 100000]"#, "depths"), (#""depths": [1, 3]"#, "missing"),
      (#""depths": [1, 1]"#, "no use"), (#""embedding_size": 1e18"#, "embedding_size"), (#""architectures": ["ResNetBackbone"]"#, "ResNetBackbone"),
    ])
  func refused(_ change: String, _ word: String) throws {
    let key = change.split(separator: "\"")[0]
    let members = [
      #""model_type": "resnet-cifar""#, #""hidden_sizes": [4, 8]"#, #""depths": [1, 2]"#, #""num_labels": 7"#,
    ].filter { !$0.hasPrefix("\"\(key)\"") }
    try folder.write("m/config.json", "{" + (members + [change]).joined(separator: ", ") + "}")
    try folder.write("m/model.safetensors", bytes(of: fixture("images/small/model.safetensors")))
    let error = #expect(throws: NibbleError.self) { try Model(folder.file("m")) }
    #expect(error?.kind == .badInput && error?.message.contains(word) == true, "\(error?.message ?? "")")
  }

  @Test("refuse images of another number of channels, and numbers that are none")
  func images() throws {
    let model = try Model(fixture("images/basic"))
    let grey = try Image(channels: 1, height: 4, width: 4, [Float](repeating: 0, count: 16))
    let error = #expect(throws: NibbleError.self) { try Self.scores(model, [grey]) }
    #expect(error?.kind == .badInput && error?.message.contains("1 channels") == true)
    let broken = try Image(channels: 3, height: 4, width: 4, [Float](repeating: .nan, count: 48))
    let nan = #expect(throws: NibbleError.self) { try Self.scores(model, [broken]) }
    #expect(nan?.kind == .quality)
  }

  @Test("top five of equal scores are those of the lesser classes")
  func topFive() throws {
    let model = try Model(fixture("images/basic"))
    var scores = ImageScores()
    try scores.add(model, Self.asked("basic").images.map { .init(.image($0), targets: [2]) })
    let figures = try scores.figures().figures
    let rank = scores.scores.map { own in own.count { $0 > own[2] } }
    let expected = Double(rank.count { $0 < 5 }) / 3
    #expect(figures.first { $0.key == "top_5" }?.score.value == expected && figures.contains { $0.key == "accuracy" })
  }
}

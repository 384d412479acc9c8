import NibbleCore
import TestSupport
import Testing

@Suite("Images, from the command line")
struct ImageCommandTests {
  let folder = TemporaryFolder()

  private func run(_ words: String...) throws -> Program.Result { try Program.run(words, folder: folder.path) }

  /// A folder of classes, with and without validation images.
  private func images() throws {
    for (name, image) in [("train/ant/1.png", "colour.png"), ("train/bee/2.jpg", "colour.jpg"), ("train/bee/3.png", "grey.png"), ("valid/ant/1.png", "palette.png")] {
      try folder.write("data/" + name, bytes(of: fixture("images/" + image)))
    }
  }

  @Test("are judged, with top-5 and what was taken for what")
  func evaluated() throws {
    try images()
    let result = try run("evaluate", fixture("images/basic"), "data/train", "--task", "images", "--json", "--predictions", "said.jsonl")
    #expect(result.code == 0 && result.errorLines.count == 1 && result.errors.contains("preprocessor_config.json"), "\(result.errors)")
    let said = try JSON.parse(result.output)
    let confusion = said["confusion"]?.array?.map { $0.array?.compactMap(\.int) ?? [] } ?? []
    #expect(said["images"]?.int == 3 && said["accuracy"]?.double != nil && said["top_5"]?.double != nil && said["loss_interval"] != nil)
    #expect(confusion.map { $0.reduce(0, +) } == [1, 2, 0, 0, 0, 0, 0])
    let lines = try String(decoding: bytes(of: folder.file("said.jsonl")), as: UTF8.self).split(separator: "\n").map { try JSON.parse(String($0)) }
    #expect(lines.map { $0["place"]?.string } == ["data/train/ant/1.png", "data/train/bee/2.jpg", "data/train/bee/3.png"])
    #expect(lines[0]["scores"]?.array?.count == 7)
  }

  @Test("are trained on, and the adapter that comes out is attached and merged")
  func trained() throws {
    try images()
    let model = fixture("images/basic")
    let result = try run(
      "finetune", model, "data", "-o", "a", "--target-modules", ".*convolution", "--lora-r", "2", "--epochs", "4", "--batch-size", "2", "--random-flip",
      "--random-crop", "1", "--json", "-q")
    #expect(result.code == 0, "\(result.errors)")
    #expect(try JSON.parse(result.output)["valid_loss"]?.double != nil)
    let attached = try run("evaluate", model, "data/train", "--task", "images", "--adapter", "a", "--json", "-q")
    let merge = try run("merge", model, "a", "-o", "m", "-q")
    #expect(merge.code == 0, "\(merge.errors)")
    let merged = try run("evaluate", "m", "data/train", "--task", "images", "--json", "-q")
    let (x, y) = (try JSON.parse(attached.output)["loss"]?.double ?? .nan, try JSON.parse(merged.output)["loss"]?.double ?? .nan)
    #expect(abs(x - y) <= 1e-4, "\(x), \(y)")
  }

  @Test("that are none, and uses that make no sense, end in one line and a documented code")
  func refused() throws {
    try images()
    try folder.write("data/train/bee/3.png", "GIF89a")
    try folder.write("rows.jsonl", #"{"image": "data/train/ant/1.png", "label": 9}"#)
    let model = fixture("images/basic")
    let cases: [([String], Int32, String)] = [
      (["evaluate", model, "data/train", "--task", "images"], 3, "3.png: neither"), (["evaluate", model, "rows.jsonl", "--task", "images"], 3, "label 9"),
      (["evaluate", fixture("stories260K"), "rows.jsonl", "--task", "images"], 2, "takes text"),
      (["evaluate", model, "rows.jsonl", "--task", "classification"], 2, "takes images"), (["generate", model, "-p", "Hello"], 2, "takes images"),
      (["finetune", model, "data", "-o", "a"], 3, "3.png: neither"), (["evaluate", model, "nowhere.bin", "--task", "images"], 3, "nowhere.bin"),
    ]
    for (words, code, text) in cases {
      let result = try Program.run(words + ["-q"], folder: folder.path)
      #expect(result.code == code && result.errorLines.count == 1 && result.errors.contains(text), "\(words): \(result.code) \(result.errors)")
    }
    #expect(!folder.contents.contains("a"))
  }
}

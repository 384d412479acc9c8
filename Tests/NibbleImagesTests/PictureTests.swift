import NibbleCore
import TestSupport
import Testing

@testable import NibbleImages

@Suite("Images become pixels and numbers")
struct PictureTests {
  let folder = TemporaryFolder()

  private static func pixels(_ name: String) throws -> [UInt8] {
    try SmallSafetensors(fixture("images/pixels.safetensors")).floats(name).map { UInt8($0) }
  }

  @Test(
    "as Pillow reads them",
    arguments: [
      "colour.png", "grey.png", "two.png", "palette.png", "veiled.png", "grey-veiled.png", "deep.png", "colour.jpg", "grey.jpg", "parts.jpg",
      "ink.jpg",
    ])
  func decoded(_ name: String) throws {
    let picture = try Picture(fixture("images/" + name)), expected = try Self.pixels(name)
    #expect(picture.width == 13 && picture.height == 9 && picture.pixels.count == expected.count)
    // Versions of libjpeg may round a colour another way.
    let distance = zip(picture.pixels, expected).map { abs(Int($0) - Int($1)) }.max() ?? 0
    #expect(distance <= (name.hasSuffix("jpg") ? 1 : 0), "\(distance)")
  }

  @Test("in other sizes as Pillow makes them", arguments: Resampling.allCases, [(5, 4), (26, 20), (13, 3), (7, 9)])
  func resized(_ filter: Resampling, _ size: (Int, Int)) throws {
    let found = filter.resize(try Picture(fixture("images/colour.png")), width: size.0, height: size.1)
    #expect(try found.pixels == Self.pixels("\(filter.rawValue) \(size.0) \(size.1)"))
  }

  private func refusal(_ bytes: [UInt8]) throws -> String {
    let path = try folder.write("image", bytes)
    let error = #expect(throws: NibbleError.self) { try Picture(path) }
    #expect(error?.kind == .badInput && error?.message.hasPrefix(path + ": ") == true)
    return error?.message ?? ""
  }

  @Test("cut off anywhere are refused, and damaged ones never crash", arguments: ["colour.png", "colour.jpg", "parts.jpg", "ink.jpg"])
  func damaged(_ name: String) throws {
    let whole = try bytes(of: fixture("images/" + name))
    // The last bytes are the end's mark alone.
    for length in stride(from: 0, to: whole.count - 12, by: 23) { _ = try refusal(Array(whole[..<length])) }
    var generator = Generator(5)
    for _ in 0..<60 {
      var changed = whole
      changed[Int.random(in: 0..<whole.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
      let path = try folder.write("image", changed)
      do { _ = try Picture(path) } catch let error as NibbleError { #expect(error.kind == .badInput) }
    }
  }

  @Test("that claim to be huge take no memory, and other files are named")
  func hostile() throws {
    var jpeg = try bytes(of: fixture("images/colour.jpg"))
    let frame = try #require(jpeg.indices.dropLast().first { jpeg[$0] == 0xFF && jpeg[$0 + 1] == 0xC0 })
    for place in 5...8 { jpeg[frame + place] = 0xF0 }
    #expect(try refusal(jpeg).contains("more than the 67108864"))
    #expect(try refusal(Array("GIF89a".utf8)).contains("neither a PNG nor a JPEG"))
    #expect(try refusal([]).contains("empty"))
  }
}

@Suite("What a model takes of a picture")
struct PreparationTests {
  private func preparation(_ text: String, _ type: String = "resnet") throws -> ImagePreparation {
    try ImagePreparation(JSON.parse(text), modelType: type, place: "p.json")
  }

  @Test("is what preprocessor_config.json says")
  func configurations() throws {
    let resNet = try preparation(#"{"crop_pct": 0.875, "size": 224, "resample": 3, "feature_extractor_type": "ConvNextFeatureExtractor"}"#)
    #expect(resNet.size == .shortestEdge(256) && resNet.resampling == .bicubic && resNet.crop?.height == 224 && resNet.crop?.width == 224)
    let large = try preparation(#"{"image_processor_type": "ConvNextImageProcessorFast"}"#)
    #expect(large.size == .exactly(height: 384, width: 384) && large.crop == nil && large.mean == [0.485, 0.456, 0.406])
    let vit = try preparation("{}", "vit")
    #expect(vit.size == .exactly(height: 224, width: 224) && vit.resampling == .bilinear && vit.mean == [0.5, 0.5, 0.5] && vit.crop == nil)
    let deit = try preparation(#"{"image_processor_type": "DeiTImageProcessor", "crop_size": {"height": 200, "width": 100}}"#)
    #expect(deit.size == .exactly(height: 256, width: 256) && deit.crop?.height == 200 && deit.crop?.width == 100)
    let plain = try preparation(#"{"image_processor_type": "ViTImageProcessor", "do_resize": false, "do_normalize": false, "do_rescale": false}"#)
    #expect(plain.size == nil && plain.scale == 1 && plain.mean == [0, 0, 0] && plain.deviation == [1, 1, 1])
  }

  @Test(
    "is refused by name where nibble has no code for it, or it is absurd",
    arguments: [
      (#"{"image_processor_type": "SamImageProcessor"}"#, "'Sam'"), (#"{"size": 0}"#, "size"), (#"{"size": {"shortest_edge": 99999}}"#, "size"),
      (#"{"resample": 9}"#, "resample"), (#"{"image_std": [1, 0, 1]}"#, "image_std"), (#"{"image_mean": [0, 1]}"#, "image_mean"),
      (#"{"do_resize": "yes"}"#, "do_resize"), (#"{"crop_pct": 0, "size": 224}"#, "crop_pct"), (#"{"rescale_factor": -1}"#, "rescale_factor"),
      (#"{"crop_pct": 1e-9, "size": 224}"#, "crop_pct"), (#"{"size": 1e300}"#, "size"),
    ])
  func refused(_ text: String, _ word: String) throws {
    let error = #expect(throws: NibbleError.self) { try preparation(text) }
    #expect(error?.kind == .badInput && error?.message.contains(word) == true, "\(error?.message ?? "")")
  }

  @Test("is its middle, normalized")
  func middle() throws {
    let picture = Picture(width: 4, height: 2, (0..<24).map { UInt8($0 * 10) })
    var preparation = ImagePreparation()
    preparation.crop = (height: 3, width: 3)
    (preparation.mean, preparation.deviation) = ([0, 0, 0.5], [1, 2, 1])
    let made = try preparation.numbers(picture, place: "p")
    // Of 4 columns the first 3: half of the surplus of 1 is rounded to even. Of 2 lines 3: nothing above, black below.
    let red = [0, 30, 60, 120, 150, 180, 0, 0, 0].map { Float($0) / 255 }
    #expect(made.height == 3 && made.width == 3)
    for (x, y) in zip(made.values[..<9], red) { #expect(abs(x - y) < 1e-6) }
    #expect(abs(made.values[9] - 10 / 255 / 2) < 1e-6 && abs(made.values[18] - (20 / 255 - 0.5)) < 1e-6 && made.values[26] == -0.5)
    #expect(preparation.black == [0, 0, -0.5])
  }

  @Test("does not grow without bounds")
  func narrow() throws {
    var preparation = ImagePreparation()
    preparation.size = .shortestEdge(1024)
    let error = #expect(throws: NibbleError.self) {
      try preparation.numbers(Picture(width: 1, height: 70_000, [UInt8](repeating: 0, count: 210_000)), place: "thin.png")
    }
    #expect(error?.message.contains("thin.png") == true && error?.message.contains("too narrow") == true)
  }
}

@Suite("Lists of images")
struct ImageListTests {
  let folder = TemporaryFolder()

  private func refusal(_ path: String) -> String {
    let error = #expect(throws: NibbleError.self) { try ImageList(path) }
    #expect(error?.kind == .badInput)
    return error?.message ?? ""
  }

  @Test("are a folder with a folder a class")
  func folders() throws {
    let image = try bytes(of: fixture("images/colour.png"))
    for name in ["d/cat/1.png", "d/cat/2.PNG", "d/ant/3.jpeg", "d/ant/notes.txt", "d/.hidden/4.png"] { try folder.write(name, image) }
    let list = try ImageList(folder.file("d"))
    #expect(list.folders == ["ant", "cat"] && list.items.map(\.label) == ["ant", "cat", "cat"] && list.passedOver == 1)
    #expect(try list.items[1].picture() == Picture(fixture("images/colour.png")))
    try folder.write("e/readme.txt", "none")
    #expect(refusal(folder.file("e")).contains("a folder for each class"))
  }

  @Test("are rows that name files beside them")
  func rows() throws {
    try folder.write("a/1.png", bytes(of: fixture("images/colour.png")))
    let path = try folder.write("rows.jsonl", "{\"image\": \"a/1.png\", \"label\": 3}\n{\"image\": \"\(fixture("images/grey.png"))\", \"label\": \"x\"}\n")
    let list = try ImageList(path)
    #expect(list.items.map(\.label) == [3, "x"] && list.folders.isEmpty && list.items[1].place == path + ":2")
    for item in list.items { #expect(try item.picture().width == 13) }
    try folder.write("bad.jsonl", "{\"image\": 7, \"label\": 1}\n")
    #expect(refusal(folder.file("bad.jsonl")).contains("bad.jsonl:1"))
    try folder.write("bare.jsonl", "{\"image\": \"a/1.png\"}\n")
    #expect(refusal(folder.file("bare.jsonl")).contains("label"))
  }

  @Test("are files of CIFAR-10")
  func cifar() throws {
    var bytes: [UInt8] = []
    for number in 0..<2 { bytes += [UInt8(number + 7)] + (0..<3).flatMap { [UInt8](repeating: UInt8(50 * $0 + number), count: 1024) } }
    let list = try ImageList(try folder.write("c.bin", bytes))
    #expect(list.items.map(\.label) == [7, 8])
    let picture = try list.items[1].picture()
    #expect(picture.width == 32 && picture.height == 32 && Array(picture.pixels[..<6]) == [1, 51, 101, 1, 51, 101])
    #expect(refusal(try folder.write("d.bin", Array(bytes.dropLast()))).contains("no whole number"))
    #expect(refusal(try folder.write("e.bin", [])).contains("no whole number"))
  }
}

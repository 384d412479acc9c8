import Glibc
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

/// A header that must be refused, and a word the error must contain.
struct BadHeader: Sendable, CustomTestStringConvertible {
  let what: String
  let file: [UInt8]
  let mentions: String
  var testDescription: String { what }

  init(_ what: String, _ header: String, data: Int = 24, mentions: String) {
    self.what = what
    file = SafetensorsBuilder.file(header: header, data: [UInt8](repeating: 0, count: data))
    self.mentions = mentions
  }

  init(_ what: String, file: [UInt8], mentions: String) {
    self.what = what
    self.file = file
    self.mentions = mentions
  }
}

@Suite("safetensors headers, strictly")
struct SafetensorsTests {
  let folder = TemporaryFolder()

  static let bad: [BadHeader] = [
    BadHeader("no bytes", file: [], mentions: "few"),
    BadHeader("seven bytes", file: [1, 0, 0, 0, 0, 0, 0], mentions: "few"),
    BadHeader("length beyond the cap", file: littleEndian(UInt64(1) << 62) + [1, 2], mentions: "header"),
    BadHeader("length beyond the file", file: littleEndian(UInt64(100)) + Array("{}".utf8), mentions: "cut"),
    BadHeader("no object", "[]", mentions: "{"),
    BadHeader("space before the object", " {}", data: 0, mentions: "{"),
    BadHeader("cut JSON", "{\"t\":", mentions: "byte"),
    BadHeader("text after the object", "{} x", data: 0, mentions: "follows"),
    BadHeader("entry that is no object", "{\"t\":3}", mentions: "byte"),
    BadHeader("no dtype", #"{"t":{"shape":[24],"data_offsets":[0,24]}}"#, mentions: "dtype"),
    BadHeader("no shape", #"{"t":{"dtype":"U8","data_offsets":[0,24]}}"#, mentions: "shape"),
    BadHeader("no offsets", #"{"t":{"dtype":"U8","shape":[24]}}"#, mentions: "data_offsets"),
    BadHeader("one offset", #"{"t":{"dtype":"U8","shape":[24],"data_offsets":[0]}}"#, mentions: "data_offsets"),
    BadHeader("three offsets", #"{"t":{"dtype":"U8","shape":[24],"data_offsets":[0,24,25]}}"#, mentions: "data_offsets"),
    BadHeader("unknown dtype", #"{"t":{"dtype":"FP5","shape":[24],"data_offsets":[0,24]}}"#, mentions: "dtype"),
    BadHeader("lower-case dtype", #"{"t":{"dtype":"u8","shape":[24],"data_offsets":[0,24]}}"#, mentions: "dtype"),
    BadHeader("unknown key", #"{"t":{"dtype":"U8","shape":[24],"data_offsets":[0,24],"x":1}}"#, mentions: "unknown key"),
    BadHeader(
      "key twice in an entry", #"{"t":{"dtype":"U8","dtype":"I8","shape":[24],"data_offsets":[0,24]}}"#, mentions: "dupl"),
    BadHeader("negative dimension", #"{"t":{"dtype":"F32","shape":[-6],"data_offsets":[0,24]}}"#, mentions: "-6"),
    BadHeader("fractional dimension", #"{"t":{"dtype":"F32","shape":[6.0],"data_offsets":[0,24]}}"#, mentions: "6.0"),
    BadHeader("exponent", #"{"t":{"dtype":"U8","shape":[24],"data_offsets":[0,24e0]}}"#, mentions: "24e0"),
    BadHeader(
      "dimension beyond 64 bits", #"{"t":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,24]}}"#, mentions: "shape"
    ),
    BadHeader(
      "count that wraps", #"{"t":{"dtype":"F64","shape":[2305843009213693955],"data_offsets":[0,24]}}"#, mentions: "shape"),
    BadHeader(
      "product that wraps", #"{"t":{"dtype":"U8","shape":[4294967296,4294967296,24],"data_offsets":[0,24]}}"#, mentions: "shape"),
    BadHeader("size and shape differ", #"{"t":{"dtype":"F32","shape":[5],"data_offsets":[0,24]}}"#, mentions: "20 bytes"),
    BadHeader("half a byte", #"{"t":{"dtype":"F4","shape":[47],"data_offsets":[0,24]}}"#, mentions: "whole bytes"),
    BadHeader("end before begin", #"{"t":{"dtype":"U8","shape":[0],"data_offsets":[24,0]}}"#, mentions: "24"),
    BadHeader("beyond the end", #"{"t":{"dtype":"U8","shape":[25],"data_offsets":[0,25]}}"#, mentions: "cut"),
    BadHeader(
      "offset near 2^63", #"{"t":{"dtype":"U8","shape":[0],"data_offsets":[9223372036854775807,9223372036854775807]}}"#,
      mentions: "9223372036854775807"),
    BadHeader(
      "bytes after the last tensor", #"{"t":{"dtype":"U8","shape":[20],"data_offsets":[0,20]}}"#, mentions: "4 bytes follow"),
    BadHeader("bytes and no tensors", "{}", mentions: "24 bytes follow"),
    BadHeader(
      "overlap",
      #"{"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},"b":{"dtype":"U8","shape":[16],"data_offsets":[8,24]}}"#,
      mentions: "overlaps"),
    BadHeader(
      "the same bytes twice",
      #"{"a":{"dtype":"U8","shape":[24],"data_offsets":[0,24]},"b":{"dtype":"U8","shape":[24],"data_offsets":[0,24]}}"#,
      mentions: "overlaps"),
    BadHeader(
      "hole", #"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[4],"data_offsets":[20,24]}}"#,
      mentions: "hole"),
    BadHeader(
      "name twice",
      #"{"t":{"dtype":"U8","shape":[12],"data_offsets":[0,12]},"t":{"dtype":"U8","shape":[12],"data_offsets":[12,24]}}"#,
      mentions: "dupl"),
    BadHeader(
      "name twice, once escaped",
      #"{"t":{"dtype":"U8","shape":[12],"data_offsets":[0,12]},"\u0074":{"dtype":"U8","shape":[12],"data_offsets":[12,24]}}"#,
      mentions: "dupl"),
    BadHeader("metadata that is no text", #"{"__metadata__":{"a":1}}"#, data: 0, mentions: "metadata"),
    BadHeader("metadata twice", #"{"__metadata__":{},"__metadata__":{}}"#, data: 0, mentions: "dupl"),
    BadHeader(
      "bad UTF-8 in a name",
      file: SafetensorsBuilder.file(
        header: Array("{\"t".utf8) + [0xC3] + Array(#"":{"dtype":"U8","shape":[24],"data_offsets":[0,24]}}"#.utf8),
        data: [UInt8](repeating: 0, count: 24)), mentions: "UTF-8"),
    BadHeader("deep nesting", "{\"t\":" + String(repeating: "[", count: 30_000) + "}", mentions: "byte"),
    BadHeader(
      "Git LFS pointer", file: Array("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".utf8), mentions: "LFS"),
    BadHeader("GGUF", file: Array("GGUF".utf8) + [UInt8](repeating: 0, count: 60), mentions: "GGUF"),
    BadHeader("zip, as torch.save writes", file: [0x50, 0x4B, 3, 4] + [UInt8](repeating: 0, count: 60), mentions: "pickle"),
  ]

  @Test("refused, with one line that says what", arguments: bad)
  func refused(_ bad: BadHeader) throws {
    let path = try folder.write("model.safetensors", bad.file)
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(path) }
    #expect(error?.kind == .badInput)
    #expect(error?.message.contains(bad.mentions) == true, "\(error?.message ?? "")")
    #expect(error?.path == path)
  }

  @Test("every dtype of the format", arguments: DType.allCases)
  func dtypes(_ dtype: DType) throws {
    let bytes = try #require(dtype.byteCount(of: 8))
    var builder = SafetensorsBuilder()
    builder.add("t", dtype.rawValue, [2, 4], [UInt8](repeating: 0, count: bytes))
    let checkpoint = try Checkpoint.open(folder.write("model.safetensors", builder.bytes))
    #expect(checkpoint.tensors.map(\.dtype) == [dtype])
    _ = try checkpoint.verify()
  }

  @Test("scalars, empty tensors, odd offsets, metadata, padding, any order of names")
  func odd() throws {
    let header =
      #"{"__metadata__":{"note":"🦙"},"z":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"#
      + #""a":{"dtype":"F64","shape":[],"data_offsets":[3,11]},"e":{"shape":[0,7],"data_offsets":[11,11],"dtype":"F16"}}      "#
    let file = SafetensorsBuilder.file(header: header, data: [UInt8](repeating: 1, count: 11))
    let checkpoint = try Checkpoint.open(folder.write("model.safetensors", file))
    #expect(checkpoint.tensors.map(\.name.text) == ["a", "e", "z"])
    #expect(checkpoint.tensors.map(\.count) == [1, 0, 3])
    #expect(checkpoint.metadata.map(\.value) == ["🦙"])
    #expect(try Checkpoint.open(folder.write("none.safetensors", SafetensorsBuilder.file(header: "{}   "))).tensors.isEmpty)
  }

  @Test("names that Swift would take for one")
  func unicodeNames() throws {
    var builder = SafetensorsBuilder()
    builder.add("\u{E9}", [1], [1])
    builder.add("e\u{301}", [1], [2])
    let checkpoint = try Checkpoint.open(folder.write("model.safetensors", builder.bytes))
    #expect(checkpoint.tensors.count == 2)
    #expect(checkpoint.tensor("\u{E9}")?.sections[0].storedLength == 4)
  }

  @Test(
    "files that are something else are refused by name",
    arguments: ["model.bin", "model.pt", "model.gguf", "model.json", "model.nbl", "model.ckpt"])
  func otherFiles(_ name: String) throws {
    let path = try folder.write(name, "whatever this is, it is not one of ours")
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(path) }
    #expect(error?.kind == .badInput)
  }
}

@Suite("Hugging Face folders")
struct ModelFolderTests {
  let folder = TemporaryFolder()
  static let first = "model-00001-of-00002.safetensors"
  static let second = "model-00002-of-00002.safetensors"

  /// Two shards with one tensor each, and an index that says `map`.
  func shards(map: [(String, String)] = [("a", first), ("b", second)], total: Int = 32) throws {
    try folder.write("config.json", #"{"model_type":"llama"}"#)
    for (name, file) in [("a", Self.first), ("b", Self.second)] {
      var builder = SafetensorsBuilder()
      builder.add(random: name, [4])
      try folder.write(file, builder.bytes)
    }
    let index: JSON = ["metadata": ["total_size": JSON(total)], "weight_map": .object(map.map { ($0.0, JSON($0.1)) })]
    try folder.write("model.safetensors.index.json", index.text())
  }

  func refuse(_ kind: NibbleError.Kind, mentioning words: String...) {
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(folder.path) }
    #expect(error?.kind == kind && error?.path?.hasPrefix(folder.path) == true)
    for word in words { #expect(error?.message.contains(word) == true, "\(error?.message ?? "")") }
  }

  @Test("shards") func opens() throws {
    try shards()
    let checkpoint = try Checkpoint.open(folder.path)
    #expect(checkpoint.tensors.map(\.name.text) == ["a", "b"])
    #expect(checkpoint.warnings.isEmpty)
  }

  @Test("a wrong total_size is a warning") func total() throws {
    try shards(total: 31)
    let warnings = try Checkpoint.open(folder.path).warnings
    #expect(warnings.map(\.category) == [.metadata] && warnings[0].subject == "total_size")
    #expect(warnings[0].path == folder.file("model.safetensors.index.json"))
  }

  @Test("a shard that the index does not list") func strayShard() throws {
    try shards(map: [("a", Self.first)])
    refuse(.integrity, mentioning: Self.second)
  }

  @Test("a shard without tensors, which no index can list, is a warning") func emptyShard() throws {
    try shards()
    let path = try folder.write("model-00003-of-00003.safetensors", SafetensorsBuilder().bytes)
    #expect(try Checkpoint.open(folder.path).warnings == [Warning(.metadata, "\(path: path): a shard without tensors")])
  }

  @Test("an index of nothing") func emptyIndex() throws {
    try shards(map: [])
    refuse(.badInput, mentioning: "empty")
  }

  @Test("one file beside an index must hold what the index lists; other weights are warned of") func fileAndIndex() throws {
    try shards()
    var builder = SafetensorsBuilder()
    builder.add(random: "a", [4])
    try folder.write("model.safetensors", builder.bytes)
    refuse(.integrity, mentioning: "'b'")
    builder.add(random: "b", [4])
    try folder.write("model.safetensors", builder.bytes)
    let unused = ["model.safetensors.index.json", Self.first, Self.second]
    let warnings = try Checkpoint.open(folder.path).warnings
    #expect(warnings.map(\.path) == unused.map(folder.file) && warnings.allSatisfy { $0.category == .unused })
  }

  @Test("a missing shard") func missing() throws {
    try shards()
    try folder.write(
      "model.safetensors.index.json", #"{"weight_map":{"a":"\#(Self.first)","b":"model-00003-of-00002.safetensors"}}"#)
    refuse(.badInput, mentioning: "model-00003")
  }

  @Test("a tensor the index does not list") func unlisted() throws {
    var map = [("a", Self.first)]
    try shards(map: map)
    map.append(("b", Self.second))
    var builder = SafetensorsBuilder()
    builder.add(random: "a", [4])
    builder.add(random: "stowaway", [4])
    try shards(map: map)
    try folder.write(Self.first, builder.bytes)
    refuse(.integrity, mentioning: "stowaway")
  }

  @Test("a tensor that is not where the index says") func displaced() throws {
    try shards(map: [("a", Self.first), ("b", Self.second), ("ghost", Self.second)])
    refuse(.integrity, mentioning: "ghost")
    try shards(map: [("a", Self.second), ("b", Self.first)])
    refuse(.integrity, mentioning: "'a'")
  }

  @Test("a tensor in two shards") func twice() throws {
    try shards()
    var builder = SafetensorsBuilder()
    builder.add(random: "a", [4])
    builder.add(random: "b", [4])
    try folder.write(Self.second, builder.bytes)
    refuse(.badInput, mentioning: "'a'")
  }

  @Test(
    "shard names that lead elsewhere",
    arguments: ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x.bin", "a\u{0}.safetensors"])
  func traversal(_ name: String) throws {
    try shards(map: [("a", Self.first), ("b", name)])
    refuse(.badInput)
  }

  @Test(
    "indices that are none",
    arguments: ["", "[]", "{}", #"{"weight_map":[]}"#, #"{"weight_map":{"a":1}}"#, #"{"weight_map":{"a":"x","a":"y"}}"#])
  func badIndex(_ text: String) throws {
    try shards()
    try folder.write("model.safetensors.index.json", text)
    refuse(.badInput, mentioning: "index.json")
  }

  @Test("no config.json: the file itself may be given") func noConfig() throws {
    var builder = SafetensorsBuilder()
    builder.add(random: "a", [4])
    try folder.write("model.safetensors", builder.bytes)
    refuse(.badInput, mentioning: "config.json", "model.safetensors")
    _ = try Checkpoint.open(folder.file("model.safetensors"))
  }

  @Test("pickles are refused by name") func pickles() throws {
    try folder.write("config.json", "{}")
    try folder.write("pytorch_model.bin", "x")
    refuse(.badInput, mentioning: "pytorch_model.bin")
  }

  @Test("symbolic links, as the hub's cache has them; pipes and folders are no files") func links() throws {
    var builder = SafetensorsBuilder()
    builder.add(random: "a", [4])
    let blob = try folder.write("blobs/0123", builder.bytes)
    try folder.write("snap/config.json", "{}")
    #expect(symlink(blob, folder.file("snap/model.safetensors")) == 0)
    #expect(try Checkpoint.open(folder.file("snap")).tensors.count == 1)
    #expect(unlink(folder.file("snap/model.safetensors")) == 0)
    #expect(mkfifo(folder.file("snap/model.safetensors"), 0o600) == 0)
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(folder.file("snap")) }
    #expect(error?.message.contains("regular") == true)
  }
}

import Foundation
import NibbleCore
import TestSupport
import Testing

@testable import NibbleFormats

@Suite("The published model a checkpoint holds")
struct OriginTests {
  let folder = TemporaryFolder()

  /// The story model in `path`, with its configuration changed.
  func model(_ path: String, _ change: (JSON) -> JSON = { $0 }) throws -> String {
    let place = folder.file(path)
    try FileManager.default.createDirectory(
      atPath: (place as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
    try FileManager.default.copyItem(atPath: fixture("stories260K"), toPath: place)
    let config = try JSON.parse(bytes(of: place + "/config.json"))
    try folder.write(path + "/config.json", change(config).text())
    return place
  }

  func quantized(_ source: String, _ name: String = "m.nbl") throws -> Checkpoint {
    let spec = try OutputSpec(path: folder.file(name), format: nil, default: .nbl)
    _ = try StreamJob.quantize(Checkpoint.open(source), QuantizeOptions(), to: spec).run()
    return try Checkpoint.open(folder.file(name))
  }

  func converted(_ source: Checkpoint, _ name: String, _ format: OutputFormat) throws -> Checkpoint {
    _ = try StreamJob.convert(source, to: OutputSpec(path: folder.file(name), format: format, default: .nbl)).run()
    return try Checkpoint.open(folder.file(name))
  }

  @Test("comes from the cache of Hugging Face, with the commit, and stays through conversions")
  func cache() throws {
    let source = try model("models--org--tiny/snapshots/abc123")
    let expected = try ModelOrigin(name: "org/tiny", revision: "abc123")
    let packed = try quantized(source)
    #expect(packed.origin == expected)
    let bnb = try converted(packed, "bnb", .bnb)
    #expect(bnb.origin == expected)
    #expect(try bytes(of: converted(bnb, "again.nbl", .nbl).path) == bytes(of: packed.path))
  }

  @Test("comes from _name_or_path where that is no path", arguments: [
    ("org/tiny", true), ("gpt2", true), ("/tmp/x", false), ("./x", false), ("a/b/c", false), ("", false), ("org/ti ny", false),
  ])
  func configuration(_ name: String, _ isName: Bool) throws {
    let packed = try quantized(model("m") { $0.setting("_name_or_path", to: JSON(name)) })
    #expect(packed.origin?.name == (isName ? name : nil))
  }

  @Test("is not guessed from the name of a folder, so that the same content gives the same bytes")
  func folderName() throws {
    let first = try quantized(model("tiny-model"), "1.nbl"), second = try quantized(model("other"), "2.nbl")
    #expect(first.origin == nil)
    #expect(try bytes(of: first.path) == bytes(of: second.path))
  }

  @Test("an origin that is none is refused", arguments: [#"{"name": 1}"#, #"{"name": "a", "revision": 2}"#, "[]", "x", #"{"name": ""}"#])
  func refused(_ text: String) throws {
    let packed = try quantized(model("m") { $0.setting("_name_or_path", to: "org/tiny") })
    var data = try bytes(of: packed.path)
    // Other bytes of the same length, and sums that hold.
    let old = Array(#"{"name":"org/tiny"}"#.utf8), new = Array(text.utf8) + [UInt8](repeating: 0x20, count: 19)
    let at = try #require(data.indices.first { Array(data[$0...].prefix(old.count)) == old })
    guard text.utf8.count <= old.count else { return }
    data.replaceSubrange(at..<at + old.count, with: new.prefix(old.count))
    let header = try NblHeader(Array(data.prefix(64)), place: "test")
    let table = Array(data[64..<64 + header.tableLength])
    let sums = NblHeader(fileLength: data.count, tableLength: table.count, tableChecksum: XXH3.digest64(of: table))
    data.replaceSubrange(0..<64, with: sums.bytes)
    try Data(data).write(to: URL(fileURLWithPath: packed.path))
    #expect(throws: NibbleError.self) { try Checkpoint.open(packed.path) }
  }
}

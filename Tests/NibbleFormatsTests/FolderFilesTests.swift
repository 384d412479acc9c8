import Foundation
import NibbleCore
import TestSupport
import Testing

@testable import NibbleFormats

@Suite("Folders that travel with a model")
struct FolderFilesTests {
  let folder = TemporaryFolder()

  /// The story model with the files that a sentence encoder has, and named chat templates.
  func model(modules: String = #"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Normalize"}]"#) throws -> String {
    try FileManager.default.copyItem(atPath: fixture("stories260K"), toPath: folder.file("m"))
    for name in ["1_Pooling", "additional_chat_templates", "notes"] {
      try FileManager.default.createDirectory(atPath: folder.file("m/" + name), withIntermediateDirectories: true)
    }
    try folder.write("m/modules.json", modules)
    try folder.write("m/1_Pooling/config.json", #"{"pooling_mode_mean_tokens": true}"#)
    try folder.write("m/1_Pooling/pytorch_model.bin", "pickle")
    try folder.write("m/additional_chat_templates/tool_use.jinja", "tools")
    try folder.write("m/additional_chat_templates/notes.txt", "no template")
    try folder.write("m/notes/a.txt", "a")
    return folder.file("m")
  }

  static let carried = ["1_Pooling/config.json", "additional_chat_templates/tool_use.jinja"]

  func convert(_ source: String, _ name: String, _ format: OutputFormat, force: Bool = false) throws -> Checkpoint {
    var spec = try OutputSpec(path: folder.file(name), format: format, default: .nbl)
    spec.force = force
    _ = try StreamJob.convert(Checkpoint.open(source), to: spec).run()
    return try Checkpoint.open(folder.file(name))
  }

  @Test("modules and chat templates come into a block file and out of it, pickles and strangers do not")
  func travel() throws {
    let source = try Checkpoint.open(model())
    let inside = source.smallFiles.map(\.name).filter { $0.contains("/") }
    #expect(inside == Self.carried)
    #expect(source.leftOutFiles.filter { $0.contains("/") } == ["1_Pooling/pytorch_model.bin", "additional_chat_templates/notes.txt", "notes/"])
    let packed = try convert(source.path, "m.nbl", .nbl)
    #expect(packed.smallFiles.map(\.name).filter { $0.contains("/") } == Self.carried)
    #expect(try packed.verify(threads: 1).identity == source.hash(threads: 1))
    _ = try convert(packed.path, "out", .bnb)
    for name in Self.carried { #expect(try bytes(of: folder.file("out/" + name)) == bytes(of: folder.file("m/" + name))) }
    #expect(try bytes(of: convert(folder.file("out"), "again.nbl", .nbl).path) == bytes(of: packed.path))
    // An output with such folders is one of ours, which another may take the place of.
    _ = try convert(packed.path, "out", .bnb, force: true)
    try folder.write("out/1_Pooling/notes.bin", "mine")
    #expect(throws: NibbleError.self) { try convert(packed.path, "out", .bnb, force: true) }
    #expect(PathKind(folder.file("out/1_Pooling/notes.bin")) == .file)
  }

  @Test("paths that lead elsewhere are not followed", arguments: ["../outside", "/etc", "1_Pooling/..", ".", "notes", "1_Pooling/deep"])
  func elsewhere(_ path: String) throws {
    try FileManager.default.createDirectory(atPath: folder.file("outside"), withIntermediateDirectories: true)
    try folder.write("outside/secret", "s")
    let source = try Checkpoint.open(model(modules: #"[{"path": "\#(path)"}]"#))
    #expect(source.smallFiles.map(\.name).filter { $0.contains("/") } == ["additional_chat_templates/tool_use.jinja"])
  }

  @Test("links out of the model's folder are left out, links within are followed")
  func links() throws {
    let path = try model(modules: #"[{"path": "1_Pooling"}, {"path": "3_Linked"}]"#)
    try folder.write("secret", "s")
    try FileManager.default.createDirectory(atPath: folder.file("elsewhere"), withIntermediateDirectories: true)
    try folder.write("elsewhere/a.json", "{}")
    func link(_ name: String, _ target: String) throws {
      try FileManager.default.createSymbolicLink(atPath: path + "/" + name, withDestinationPath: target)
    }
    try link("1_Pooling/secret.json", "../../secret")
    try link("1_Pooling/inside.json", "config.json")
    try link("3_Linked", "../elsewhere")
    let source = try Checkpoint.open(path)
    #expect(source.smallFiles.map(\.name).filter { $0.contains("/") } == ["1_Pooling/config.json", "1_Pooling/inside.json"] + Self.carried.suffix(1))
    #expect(source.leftOutFiles.contains("1_Pooling/secret.json") && source.leftOutFiles.contains("3_Linked/"))
  }

  @Test("names of files in a block file", arguments: [
    ("a.json", true), ("1_Pooling/config.json", true), ("2_Dense/model.safetensors", true), ("additional_chat_templates/a.jinja", true),
    ("additional_chat_templates/a.txt", false), ("1_Pooling/../x", false), ("../x", false), ("/x", false), ("1_/x", false), ("_a/x", false),
    ("1_Pooling/", false), ("1_Pooling/.x", false), ("1_Pooling/a/b", false), ("x/config.json", false), ("1_Pooling/a.bin", false),
    ("model.safetensors", false), ("1_Pooling/nibble.json", false), ("1_Pöol/x", false),
  ])
  func names(_ name: String, _ isOne: Bool) { #expect(ModelFileNames.isPlain(name) == isOne) }
}

import Foundation
import NibbleCore
import TestSupport

/// A folder with the files that examples name.
struct ExampleFolder {
  let folder = TemporaryFolder()

  /// Made once, then copied.
  private static let original = Result { try ExampleFolder(making: ()) }

  static func copy() throws -> ExampleFolder {
    let (copy, original) = (ExampleFolder(), try original.get())
    for name in original.folder.contents { try FileManager.default.copyItem(atPath: original.folder.file(name), toPath: copy.folder.file(name)) }
    return copy
  }

  private init() {}

  private init(making: Void) throws {
    func put(_ fixtureName: String, _ name: String) throws {
      try FileManager.default.copyItem(atPath: fixture(fixtureName), toPath: folder.file(name))
    }
    try put("stories260K", "MODEL")
    try put("shakespeare/adapter", "adapter")
    try put("shakespeare/adapter", "other-adapter")
    try folder.write("text.txt", "Once upon a time, there was a little girl. She liked to play.")
    try folder.write("rows.jsonl", (0..<4).map { #"{"prompt": "One \#($0)", "completion": " day"}"# + "\n" }.joined())
    try folder.write(
      "plan.yaml",
      """
      variables: {STEPS: 2}
      finetune: {base: MODEL, data: rows.jsonl, max-steps: "${STEPS}", batch-size: 2}
      grid: {lora-r: [1, 2]}
      seeds: [1, 2]
      evaluate: {rows: {task: lm, data: rows.jsonl}}
      """)
    var ids = SafetensorsBuilder()
    ids.add("input_ids", "I64", [1, 3], [1, 403, 407].flatMap { withUnsafeBytes(of: Int64($0).littleEndian) { [UInt8]($0) } })
    try folder.write("ids.safetensors", ids.bytes)
    for command in [
      "quantize MODEL -o model.nbl", "convert model.nbl -o model-bnb --format bnb", "merge MODEL adapter -o merged --any-base",
      "merge MODEL adapter -o tuned --any-base", "merge model.nbl adapter -o merged.nbl --when-lost promote --undo undo.patch --any-base",
      "merge model.nbl adapter -o task.nbl --when-lost shape --any-base", "patch model.nbl task.nbl -o task.patch",
      "finetune MODEL rows.jsonl -o trained --max-steps 2 -q", "sweep plan.yaml -o swept -q",
    ] {
      let result = try Program.run(command.split(separator: " ").map(String.init), folder: folder.path)
      guard result.code == 0 else { throw NibbleError(.failed, "\(command): \(result.errors)") }
    }
  }

  /// Runs an example as a shell does, its output taken away first unless it is an input of others.
  func shell(_ command: String) throws -> Program.Result {
    let words = command.split(separator: " ").map(String.init)
    if let flag = words.firstIndex(of: "-o") { try? FileManager.default.removeItem(atPath: folder.file(words[flag + 1])) }
    return try Program.shell(command, folder: folder.path)
  }
}

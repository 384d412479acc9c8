import NibbleCore

/// A kind of file that may be given as a checkpoint: how it is recognised, and how it is opened or why it is not.
struct FileKind: Sendable {
  /// Whether a file is of this kind, by its first bytes and its name in lower case.
  let isOne: @Sendable (_ start: [UInt8], _ name: String) -> Bool
  /// Opens one, or throws what is wrong with giving it.
  let open: @Sendable (InputFile) throws -> Checkpoint

  /// In this order; the first that recognises a file has it.
  static let all: [FileKind] = [.block, .patch, .brokenBlock, .gguf, .pickle, .json, .safetensors]

  private static func refused(_ endings: [String], _ reason: String) -> FileKind {
    FileKind(
      isOne: { _, name in endings.contains { name.hasSuffix($0) } },
      open: { file in
        let ending = endings.first { file.path.lowercased().hasSuffix($0) } ?? ""
        throw NibbleError.badInput("\(path: file.path): \(reason.replacing("ENDING", with: ending))")
      })
  }

  private static let block = FileKind(isOne: { start, _ in start == NblHeader.magic }, open: { try Checkpoint.openNbl($0) })

  private static let patch = FileKind(
    isOne: { start, _ in start == PatchHeader.magic },
    open: { file in
      throw NibbleError.badInput("\(path: file.path): a patch, which is no checkpoint: 'nibble swap' applies it to a block file")
    })

  private static let brokenBlock = refused([".nbl"], "not a block file: its first bytes are not the magic of one")

  private static let pickle = refused(
    [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"],
    "ENDING files are pickles, which can run code when loaded, and are not read; convert to safetensors")

  private static let gguf = FileKind(
    isOne: { start, name in start.starts(with: GgufFile.magic) || name.hasSuffix(".gguf") }, open: { try Checkpoint.openGguf($0) })

  private static let json = refused([".json"], "a JSON file is no checkpoint; give the folder it lies in")

  private static let safetensors = FileKind(isOne: { _, _ in true }, open: { try Checkpoint.openSafetensors($0) })
}

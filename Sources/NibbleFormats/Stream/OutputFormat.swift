import NibbleCore

/// The containers verbs write.
public enum OutputFormat: String, Sendable, CaseIterable {
  /// One block file.
  case nbl
  /// safetensors with packed tensors in bitsandbytes' layout.
  case bnb
  /// safetensors of plain tensors.
  case safetensors
}

/// What to write and where.
public struct OutputSpec: Sendable {
  /// The file or folder to write.
  public var path: String
  /// The container to make.
  public var format: OutputFormat
  /// Whether an existing output is replaced.
  public var force = false
  /// For block files only.
  public var compression = CompressionChoice.none
  /// Bytes of tensors a safetensors shard holds at most.
  public var maximumShard = 5_000_000_000

  /// Whether safetensors go into one file instead of a folder.
  public var isSingleFile: Bool { format == .nbl || path.lowercased().hasSuffix(".safetensors") }

  /// Settles the container.
  ///
  /// - Parameters:
  ///   - format: as asked for; nil to go by the ending of `path`, then by `habit`
  /// - Throws: `.usage` if ending and format contradict each other
  public init(path: String, format: OutputFormat?, habit: OutputFormat) throws {
    self.path = path
    let lower = path.lowercased()
    for strange in [".gguf", ".bin", ".pt", ".pth", ".json", ".ckpt"] where lower.hasSuffix(strange) {
      throw NibbleError.usage("\(path): nibble writes no \(strange) files")
    }
    let ending: [OutputFormat]? =
      lower.hasSuffix(".nbl") ? [.nbl] : lower.hasSuffix(".safetensors") ? [.safetensors, .bnb] : nil
    if let format {
      if let ending, !ending.contains(format) {
        throw NibbleError.usage("\(path): the ending contradicts --format \(format.rawValue)")
      }
      self.format = format
    } else if let ending {
      self.format = ending.contains(habit) ? habit : ending[0]
    } else {
      self.format = habit
    }
    if self.format == .nbl, lower.hasSuffix("/") {
      throw NibbleError.usage("\(path): a block file is one file, not a folder")
    }
  }

  var shape: StagedOutput.Shape { isSingleFile ? .file : .folder(owns: SmallFileNames.isOurs) }
}

import NibbleCore

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
  /// For GGUF files only.
  public var gguf = GgufOptions()
  /// Bytes of tensors a shard holds at most.
  public var maximumShard = 5_000_000_000

  /// Whether safetensors go into one file instead of a folder.
  public var isSingleFile: Bool { format.container.isAlwaysOneFile || Self.formats(endingOf: path) != nil }

  /// Settles the container.
  ///
  /// - Parameters:
  ///   - format: as asked for; nil to go by the ending of `path`, then by `default`
  /// - Throws: `.usage` if ending and format contradict each other
  public init(path: String, format: OutputFormat?, default fallback: OutputFormat) throws {
    self.path = path
    let lower = path.lowercased()
    for strange in [".bin", ".pt", ".pth", ".json", ".ckpt"] where lower.hasSuffix(strange) {
      throw NibbleError.usage("\(path: path): nibble writes no \(strange) files")
    }
    let ending = Self.formats(endingOf: path)
    if let format {
      if let ending, !ending.contains(format) {
        throw NibbleError.usage("\(path: path): the ending contradicts \(.format, format.rawValue)")
      }
      self.format = format
    } else if let ending {
      self.format = ending.contains(fallback) ? fallback : ending.last ?? fallback
    } else {
      self.format = fallback
    }
    if self.format.container.isAlwaysOneFile, lower.hasSuffix("/") {
      throw NibbleError.usage("\(path: path): a block file is one file, not a folder")
    }
  }

  /// Refuses options of another container.
  ///
  /// - Throws: `.usage`
  public func checkOptions() throws {
    guard !format.choosesTypes, gguf.isGiven else { return }
    let option: Setting = gguf.importance != nil ? .imatrix : gguf.preTokenizer != nil ? .ggufPre : gguf.requantizes ? .allowRequantize : .ggufType
    throw NibbleError.usage("\(option) is for GGUF files, not for \(format.rawValue)")
  }

  /// The containers that the ending of `path` asks for, most general last; nil where it asks for none.
  private static func formats(endingOf path: String) -> [OutputFormat]? {
    let lower = path.lowercased()
    let found = OutputFormat.allCases.filter { $0.container.endings.contains { lower.hasSuffix($0) } }
    return found.isEmpty ? nil : found
  }

  var shape: StagedOutput.Shape { isSingleFile ? .file : .folder(owns: ModelFileNames.isOurs) }
}

/// What compressing sections saved, by what they hold.
public struct CompressionReport: Sendable, Equatable {
  /// Bytes before and after.
  public struct Bytes: Sendable, Equatable {
    /// Before, which is what a reader gets.
    public var plain = 0
    /// As they are stored, the lengths of the frames among them.
    public var stored = 0

    /// The share that was saved; below 0 where compressing made more of it.
    public var saved: Double { plain == 0 ? 0 : 1 - Double(stored) / Double(plain) }
  }

  /// Codes of packed tensors.
  public var codes = Bytes()
  /// Their scales, with all that comes with these.
  public var scales = Bytes()
  /// Elements of tensors that are not packed.
  public var plain = Bytes()
  /// Small files and texts.
  public var files = Bytes()

  mutating func add(_ section: NblTable.Section) {
    let part: WritableKeyPath<Self, Bytes> =
      switch section.kind {
      case .data: \.plain
      case .codes: \.codes
      case .scales, .groupScales, .zeros, .offsets, .scaleCodes, .nestedScales, .nestedOffset, .offsetCodes, .offsetScales, .tileOffsets: \.scales
      case .stateText, .file: \.files
      }
    self[keyPath: part].plain += section.plainLength
    self[keyPath: part].stored += section.storedLength
  }

  /// The parts that are there, by name.
  public var parts: [(name: String, bytes: Bytes)] {
    [("codes", codes), ("scales", scales), ("plain tensors", plain), ("files", files)].filter { $0.1.plain > 0 }
  }
}

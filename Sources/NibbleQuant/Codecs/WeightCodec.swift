import NibbleCore

/// A way to store the elements of a tensor, with its parameters.
///
/// This is the whole face of a codec: what its table entry says, which sections it has, how elements become codes and codes elements.
/// Nothing outside a codec's own file asks which codec it is; capabilities that only some have are protocols of their own
/// (`InPlaceCodec`, `BitsAndBytesCodec`). A new codec is one file here and one line in `Codecs.all`.
package protocol WeightCodec: Hashable, Sendable {
  /// Its line in the list of codecs.
  var kind: CodecKind { get }
  /// One line for people: "nf4, block 64, double quantized".
  var summary: String { get }
  /// Its parameters by name, for reports in JSON.
  var description: [(key: String, value: JSON)] { get }

  // MARK: On disk

  /// Why a tensor of this type and shape cannot be stored so; nil if it can.
  func refusal(_ dtype: DType, _ shape: [Int]) -> String?
  /// Kinds and plain lengths of the sections of a tensor, codes first.
  func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength]
  /// Tables of values that its parameters refer to.
  var codebooks: [Codebook] { get }
  /// Writes its parameters as a `.nbl` table holds them.
  func writeParameters(_ out: inout CodecParameters)
  /// Writes what of its parameters belongs to a tensor's identity.
  func writeIdentity(_ out: inout ByteWriter)

  /// How far one value that is not finite reaches, for messages; nil where only it or its block is lost.
  var lossReach: String? { get }

  // MARK: At work

  /// What turns the elements of one tensor into codes.
  func encoder(_ task: EncodingTask) -> any TensorEncoder
  /// Whether its search for scales asks how much each column counts.
  var takesImportance: Bool { get }
  /// Whether its codes can be chosen so that a change survives.
  var canShape: Bool { get }
  /// Whether the codes of every chunk are whole frames of a compressed section.
  var fillsFrames: Bool { get }
  /// The same, choosing codes so that a change survives; nil where the codec has no choice to make.
  ///
  /// - Parameter source: the decoder of a tensor that is coded like this already and keeps its scales
  func shapingEncoder(_ task: EncodingTask, _ space: RowSpace, keeping source: (any TensorDecoder)?) -> (any ShapingEncoder)?
  /// Why elements cannot move in groups of so many columns and rows without a code being touched; nil if they can.
  func movingRefusal(_ shape: [Int], length: Int, rows: Int) -> String?
  /// Moves elements in groups that are its own; nil where it has nothing to move them with.
  ///
  /// - Parameter sections: plain bytes of those behind the codes
  func moved(_ sections: [[UInt8]], by shift: GroupShift) -> MovedGroups?
  /// Columns of a group whose elements move together, of a matrix with so many columns.
  func movedLength(columns: Int) -> Int
  /// What turns codes back into elements.
  ///
  /// - Parameters:
  ///   - dtype: of the tensor
  ///   - sections: the plain bytes of the sections behind the codes, in order
  ///   - memory: where the decoder keeps what it needs
  func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder
  /// Bytes of memory that work on one tensor takes.
  func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory
}

extension WeightCodec {
  package var summary: String { kind.name }
  package var description: [(key: String, value: JSON)] { [] }
  package var codebooks: [Codebook] { [] }
  package func refusal(_ dtype: DType, _ shape: [Int]) -> String? { nil }
  package func writeParameters(_ out: inout CodecParameters) {}
  package func writeIdentity(_ out: inout ByteWriter) {}
  package var lossReach: String? { nil }
  package var takesImportance: Bool { false }
  package var canShape: Bool { false }
  package func movingRefusal(_ shape: [Int], length: Int, rows: Int) -> String? { "\(kind.name) has no zeros or offsets of groups" }
  package func moved(_ sections: [[UInt8]], by shift: GroupShift) -> MovedGroups? { nil }
  package func movedLength(columns: Int) -> Int { 1 }
  package var fillsFrames: Bool { true }
  package func shapingEncoder(
    _ task: EncodingTask, _ space: RowSpace, keeping source: (any TensorDecoder)?
  ) -> (any ShapingEncoder)? { nil }
}

/// Bytes that codecs may not share: what of a tensor a section holds. Raw values are those of the `.nbl` table.
public enum SectionKind: UInt16, Sendable {
  /// The elements of a plain tensor.
  case data = 1
  /// 4-bit codes, first element of a pair in the high nibble, or signed bytes.
  case codes = 2
  /// float32 absmax, one a block or row.
  case scales = 3
  /// 8-bit codes of scales, one a block.
  case scaleCodes = 4
  /// float32 absmax of scale blocks.
  case nestedScales = 5
  /// The float32 mean that scale codes are relative to.
  case nestedOffset = 6
  /// The text of a bitsandbytes quantization state that says what the table says in other words.
  case stateText = 7
  /// A small file of the model folder.
  case file = 8
  /// Scales of groups, one a group, F16, BF16 or F32.
  case groupScales = 9
  /// Zeros of groups, one a group, whole numbers in bytes, F16 or F32.
  case zeros = 10
  /// Offsets of groups, one a group, of the type of the scales.
  case offsets = 11
  /// 8-bit codes of offsets, one a block.
  case offsetCodes = 12
  /// float32 absmax of the offsets that share it.
  case offsetScales = 13
  /// float32 offsets, one a tile.
  case tileOffsets = 14

  /// Bits of the numbers in it, for byte planes; nil where that depends on the tensor.
  package var bitWidth: Int? {
    switch self {
    case .data: nil
    case .scales, .nestedScales, .offsetScales, .tileOffsets: 32
    case .codes, .scaleCodes, .nestedOffset, .stateText, .file, .zeros, .offsetCodes: 8
    case .groupScales, .offsets: 16
    }
  }
}

/// A section and how many bytes it has before compression.
package typealias SectionLength = (kind: SectionKind, length: Int)

/// What a codec is asked to hold memory for.
package enum CodecWork: Sendable {
  /// Elements of this type become codes.
  case encoding(DType, transposing: Bool)
  /// Codes become elements of this type.
  case decoding(DType)
  /// Values change on their way into codes.
  case changing
}

/// Bytes of memory for one tensor.
package struct CodecMemory: Sendable {
  /// For each thread.
  package var perThread: Int
  /// Once.
  package var perTensor: Int

  /// Bytes for each thread, and once.
  package init(perThread: Int, perTensor: Int) { (self.perThread, self.perTensor) = (perThread, perTensor) }
}

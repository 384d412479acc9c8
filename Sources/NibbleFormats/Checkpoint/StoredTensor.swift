import NibbleCore
import NibbleQuant

/// How a section's bytes are packed on disk. Raw values are those of the `.nbl` table.
package enum Compression: UInt8, Sendable {
  case none = 0
  /// Independent zstd frames of 256 KiB each.
  case zstd = 1
  /// The same, each frame's elements of 2 or 4 bytes split into byte planes first.
  case zstdPlanes2 = 2
  case zstdPlanes4 = 3

  /// Bytes of an element whose planes are split, 1 for none.
  var planes: Int {
    switch self {
    case .none, .zstd: 1
    case .zstdPlanes2: 2
    case .zstdPlanes4: 4
    }
  }
}

/// A run of bytes in a checkpoint.
package struct StoredSection: Sendable {
  package enum Source: Sendable {
    case file(InputFile, offset: Int)
    case memory([UInt8])
    /// Bytes of a file with a patch applied to them.
    case patched(PatchedBytes)
    /// Bytes put together of other sections.
    case composed(ComposedBytes)
  }

  package var kind: SectionKind
  package var source: Source
  package var storedLength: Int
  package var plainLength: Int
  package var compression = Compression.none
  /// The order in which the file has its numbers, if that is not the order in which they are used. Such a section is not compressed.
  package var order: SectionOrder?
  /// XXH3-64 of the stored bytes, where the container keeps it.
  package var checksum: UInt64?

  package init(_ kind: SectionKind, in file: InputFile, at offset: Int, count: Int) {
    self.kind = kind
    source = .file(file, offset: offset)
    storedLength = count
    plainLength = count
  }

  package init(_ kind: SectionKind, bytes: [UInt8]) {
    self.kind = kind
    source = .memory(bytes)
    storedLength = bytes.count
    plainLength = bytes.count
  }

  /// Bytes that `read` has.
  var readLength: Int { compression == .none ? plainLength : storedLength }

  /// The same numbers in another order in the file, where they take as many bytes as they do there.
  func ordered(_ order: SectionOrder?, _ kind: SectionKind, plainLength: Int) -> StoredSection {
    var section = self
    (section.order, section.kind, section.plainLength) = (order, kind, plainLength)
    return section
  }

  /// The file the section lies in, for messages.
  var place: String {
    switch source {
    case .file(let file, _): file.path
    case .patched(let patched): patched.patch.path
    case .composed(let composed): composed.parts.first?.place ?? ""
    case .memory: ""
    }
  }
}

/// A tensor as some container stores it: what it is, how it is coded, where its bytes are.
public struct StoredTensor: Sendable {
  /// The full name, unique in its checkpoint.
  public var name: ByteName
  /// The type of the elements; of a packed tensor, the type they had and decode to.
  public var dtype: DType
  /// The shape as stored.
  public var shape: [Int]
  /// Whether the model's own tensor is the transpose of what is stored (Conv1D weights are packed transposed).
  public var isTransposed = false
  /// How the elements are stored.
  public var encoding = WeightEncoding.plain
  /// In the order of their kinds.
  package var sections: [StoredSection]
  /// XXH3-128 of the plain bytes of the sections, where the container keeps it.
  package var digest: Digest128?
  /// What a bitsandbytes file says beside the codes, to give it back unchanged.
  package var foreign = ForeignLayout()

  package init(_ name: ByteName, _ dtype: DType, _ shape: [Int], sections: [StoredSection]) {
    self.name = name
    self.dtype = dtype
    self.shape = shape
    self.sections = sections
  }

  /// The number of elements.
  public var count: Int { elementCount(of: shape) ?? 0 }
  /// The shape the model knows.
  public var logicalShape: [Int] { isTransposed ? shape.reversed() : shape }
  /// Whether the elements are codes.
  public var isPacked: Bool { !encoding.isPlain }
  /// Bytes the tensor takes in its file.
  public var storedBytes: Int { sections.reduce(0) { $0 + $1.storedLength } }
  /// Bytes of codes and scales, or elements, uncompressed.
  public var plainBytes: Int { sections.reduce(0) { $0 + $1.plainLength } }

  /// File and tensor, for messages.
  var place: MessageText { "\(path: sections.first?.place ?? ""): \(tensor: name.text)" }

  package func section(_ kind: SectionKind) -> StoredSection? { sections.first { $0.kind == kind } }
}

/// Details of a bitsandbytes file that change no value.
package struct ForeignLayout: Hashable, Sendable {
  /// The type the packed codes are declared with (`bnb_4bit_quant_storage`).
  package var storage = DType.u8

  package init() {}
}

import Glibc
import NibbleCore
import NibbleQuant

extension Matrix {
  /// The matrix [rows, columns] that decided codes stand for, for products as a reader of the file makes them.
  ///
  /// - Throws: `.failed` for sections that do not belong together
  package init(_ decided: DecidedCodes, _ dtype: DType, rows: Int, columns: Int) throws {
    let kinds = decided.codec.sections(dtype, [rows, columns]).map(\.kind)
    let kept = KeptSections(decided.sections)
    func bytes(_ kind: SectionKind) -> UnsafeRawBufferPointer? { kinds.firstIndex(of: kind).map { kept.bytes[$0] } }
    if let codec = decided.codec as? any InPlaceCodec {
      let sections = MappedSections(
        owner: kept, inPlace: { bytes($0) },
        number: { bytes($0).map { $0.loadUnaligned(as: Float.self) } ?? 0 })
      if let matrix = try codec.matrix(rows: rows, columns: columns, sections, isTransposed: false) {
        self = matrix
        return
      }
    }
    let memory = Scratch()
    let values = FloatStore(count: rows * columns)
    withExtendedLifetime(memory) {
      let decoder = decided.codec.decoder(dtype, [rows, columns], Array(decided.sections.dropFirst()), memory)
      guard let codes = kept.bytes[0].baseAddress else { return }
      decoder.decode(codes, 0, rows * columns, .f32, UnsafeMutableRawPointer(values.start))
    }
    guard let matrix = Matrix(.f32, rows: rows, columns: columns, UnsafeRawBufferPointer(values.values), owner: values) else {
      throw NibbleError(.failed, "codes of \(rows) rows of \(columns) make no matrix")
    }
    self = matrix
  }

  /// The weight [outputs, inputs] as float32, whichever way it is stored.
  package func values() -> FloatStore {
    let store = FloatStore(count: outputs * inputs)
    guard isTransposed else {
      rows(0..<outputs, into: store.start)
      return store
    }
    let stored = FloatStore(count: outputs * inputs)
    rows(0..<inputs, into: stored.start)
    Kernels.transpose(.f32, stored.start, rows: inputs, columns: outputs, stride: outputs, store.start)
    return store
  }
}

extension Matrix {
  /// Lets go of the pages of a plain matrix in a mapped file; they come back when they are read again.
  package func releasePages() {
    guard !isPacked, let data = native.data else { return }
    let page = Int(sysconf(Int32(_SC_PAGESIZE)))
    let bytes = native.rows * native.columns * (bytesPerOutput / max(inputs, 1))
    // Whole pages only: what lies before and behind belongs to others.
    let start = (Int(bitPattern: data) + page - 1) / page * page
    let end = (Int(bitPattern: data) + bytes) / page * page
    if start < end { madvise(UnsafeMutableRawPointer(bitPattern: start), end - start, MADV_DONTNEED) }
  }
}

/// Sections at fixed addresses.
private final class KeptSections: @unchecked Sendable {
  let bytes: [UnsafeRawBufferPointer]

  init(_ sections: [[UInt8]]) {
    bytes = sections.map { section in
      let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: max(section.count, 64), alignment: 64)
      copy.copyBytes(from: section)
      return UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(copy)[..<section.count])
    }
  }

  deinit { for section in bytes { UnsafeMutableRawPointer(mutating: section.baseAddress)?.deallocate() } }
}

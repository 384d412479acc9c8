import CNibbleKernels
import NibbleCore
import NibbleQuant

/// A codec whose codes products are made with where they lie. Any other codec's tensors are decoded into float32 in memory first.
package protocol InPlaceCodec: WeightCodec {
  /// A matrix stored as [rows, columns].
  ///
  /// - Returns: nil if the sections are not as long as the codec has them, or its parameters are none that products are made with: then
  ///   it is decoded too
  /// - Throws: what `sections` throws
  func matrix(rows: Int, columns: Int, _ sections: MappedSections, isTransposed: Bool) throws -> Matrix?
}

/// The sections of one tensor in a mapped file.
package struct MappedSections {
  /// The bytes of a section where they lie; nil where there is none.
  package let inPlace: (SectionKind) throws -> UnsafeRawBufferPointer?
  /// The float32 in a section of four bytes.
  package let number: (SectionKind) throws -> Float
  /// What keeps the bytes alive.
  package let owner: AnyObject

  package init(
    owner: AnyObject, inPlace: @escaping (SectionKind) throws -> UnsafeRawBufferPointer?,
    number: @escaping (SectionKind) throws -> Float
  ) {
    (self.owner, self.inPlace, self.number) = (owner, inPlace, number)
  }
}

extension BlockCodec: InPlaceCodec {
  package func matrix(rows: Int, columns: Int, _ sections: MappedSections, isTransposed: Bool) throws -> Matrix? {
    guard blockSize >= 2, blockSize % 2 == 0, let codes = try sections.inPlace(.codes) else { return nil }
    let scales: Matrix.Scales
    if let coded = try sections.inPlace(.scaleCodes), let nested = try sections.inPlace(.nestedScales) {
      scales = .coded(coded, nested: nested, offset: try sections.number(.nestedOffset))
    } else if let plain = try sections.inPlace(.scales) {
      scales = .plain(plain)
    } else {
      return nil
    }
    return Matrix(
      self, rows: rows, columns: columns, codes: codes, scales, isTransposed: isTransposed, owner: sections.owner)
  }
}

extension OffsetBlocks: InPlaceCodec {
  package func matrix(rows: Int, columns: Int, _ sections: MappedSections, isTransposed: Bool) throws -> Matrix? {
    let size = blocks.blockSize
    // Offsets become a term of sums over whole blocks of a row.
    guard columns % size == 0, let codes = try sections.inPlace(.offsetCodes), let scales = try sections.inPlace(.offsetScales),
      codes.count == rows * columns / size, scales.count == 4 * ceilDivide(codes.count, offsets.blockSize),
      let start = scales.baseAddress?.assumingMemoryBound(to: Float.self),
      let matrix = try blocks.matrix(rows: rows, columns: columns, sections, isTransposed: isTransposed)
    else { return nil }
    let restored = FloatStore(count: codes.count)
    restoredOffsets(codes: codes.bindMemory(to: UInt8.self), scales: start, restored.start)
    return matrix.adding(GroupOffsets(restored, rows: rows, length: size))
  }
}

extension Int8Rows: InPlaceCodec {
  package func matrix(rows: Int, columns: Int, _ sections: MappedSections, isTransposed: Bool) throws -> Matrix? {
    guard let codes = try sections.inPlace(.codes), let scales = try sections.inPlace(.scales) else { return nil }
    return Matrix(
      rows: rows, columns: columns, codes: codes, scales: scales, isTransposed: isTransposed, owner: sections.owner)
  }
}

extension Int4Groups: InPlaceCodec {
  package func matrix(rows: Int, columns: Int, _ sections: MappedSections, isTransposed: Bool) throws -> Matrix? {
    guard let codes = try sections.inPlace(.codes), let scales = try sections.inPlace(.groupScales) else { return nil }
    let memory = Scratch(), count = groups([rows, columns])
    return try withExtendedLifetime(memory) {
      let own = values(of: [Array(scales)] + (try sections.inPlace(zero == .offset ? .offsets : .zeros).map { [Array($0)] } ?? []), memory)
      func store(_ floats: UnsafeMutablePointer<Float>) -> FloatStore {
        FloatStore(Array(UnsafeBufferPointer(start: floats, count: count)))
      }
      let matrix = Matrix(
        rows: rows, columns: columns, codes: codes, groupLength: length(columns: columns), scales: store(own.scales),
        zeros: own.zeros.map(store), areOffsets: own.areOffsets, owner: sections.owner)
      return isTransposed ? matrix?.turned : matrix
    }
  }
}

extension GGMLBlocks: InPlaceCodec {
  package func matrix(rows: Int, columns: Int, _ sections: MappedSections, isTransposed: Bool) throws -> Matrix? {
    guard let blocks = try sections.inPlace(.codes), blocks.count == type.byteCount([rows, columns]), let data = blocks.baseAddress,
      let storage = nibble_ggml_storage(type.native)
    else { return nil }
    return Matrix(rows: rows, columns: columns, storage, data: data, isTransposed: isTransposed, owners: [sections.owner])
  }
}

extension MXFP4: InPlaceCodec {
  package func matrix(rows: Int, columns: Int, _ sections: MappedSections, isTransposed: Bool) throws -> Matrix? {
    guard let codes = try sections.inPlace(.codes), let scales = try sections.inPlace(.scaleCodes), columns % Self.block == 0,
      codes.count == rows * columns / 2, scales.count == rows * columns / Self.block, let data = codes.baseAddress,
      let first = scales.baseAddress, let storage = nibble_mxfp4_storage()
    else { return nil }
    var native = nibble_matrix()
    (native.rows, native.columns, native.storage, native.data) = (rows, columns, storage, data)
    native.scale_codes = first.assumingMemoryBound(to: UInt8.self)
    return Matrix(native, isTransposed: isTransposed, owners: [sections.owner])
  }
}

extension FP8Tiles: InPlaceCodec {
  package func matrix(rows: Int, columns: Int, _ sections: MappedSections, isTransposed: Bool) throws -> Matrix? {
    guard let codes = try sections.inPlace(.codes), let stored = try sections.inPlace(.scales), codes.count == rows * columns,
      let data = codes.baseAddress, let storage = nibble_fp8_storage()
    else { return nil }
    let own = FloatStore(scales(stored))
    guard own.count == elementCount(of: tiles([rows, columns])) else { return nil }
    var native = nibble_matrix()
    (native.rows, native.columns, native.storage, native.data) = (rows, columns, storage, data)
    (native.scales, native.nested_block, native.block) = (UnsafePointer(own.start), height, width)
    return Matrix(native, isTransposed: isTransposed, owners: [sections.owner, own])
  }
}

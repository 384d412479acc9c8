import CNibbleKernels
import Glibc
import NibbleCore
import NibbleQuant

/// A weight matrix where it lies: in a mapped file, as codes or plain numbers.
package struct Matrix: @unchecked Sendable {
  /// Pointers into memory that `owners` keep alive.
  package let view: MatrixView
  /// Whether the layer's weight, [outputs, inputs], is the transpose of what is stored (Conv1D in plain files).
  package let isTransposed: Bool
  /// What is added to the numbers of groups of a stored row; nil for nothing. `native` is without it.
  let offsets: GroupOffsets?
  private let owners: [AnyObject]

  package var native: nibble_matrix { view.native }
  package var outputs: Int { isTransposed ? native.columns : native.rows }
  package var inputs: Int { isTransposed ? native.rows : native.columns }
  package var isPacked: Bool { native.storage != nil }
  /// Bytes a product reads of one row of outputs.
  package var bytesPerOutput: Int {
    guard let storage = native.storage else { return inputs * (native.number == nibble_f32 ? 4 : 2) }
    let codes = inputs * storage.pointee.size / storage.pointee.together
    return native.block == 0 ? codes : codes + inputs / native.block * (native.scales == nil ? 1 : 4)
  }

  init(_ native: nibble_matrix, isTransposed: Bool, offsets: GroupOffsets? = nil, owners: [AnyObject]) {
    view = MatrixView(native)
    self.isTransposed = isTransposed
    self.offsets = offsets
    self.owners = owners
  }

  /// Plain numbers, [rows, columns] as stored.
  ///
  /// - Parameter dtype: F32, F16 or BF16
  /// - Returns: nil for types products are not made with, or too few bytes
  package init?(
    _ dtype: DType, rows: Int, columns: Int, _ bytes: UnsafeRawBufferPointer, isTransposed: Bool = false, owner: AnyObject
  ) {
    guard [.f32, .f16, .bf16].contains(dtype), let number = dtype.number, let data = bytes.baseAddress,
      bytes.count == rows * columns * dtype.bitWidth / 8
    else { return nil }
    var native = nibble_matrix()
    native.rows = rows
    native.columns = columns
    native.number = number
    native.data = data
    self.init(native, isTransposed: isTransposed, owners: [owner])
  }

  /// Numbers in a storage of a codec's own, [rows, columns] as stored.
  ///
  /// - Parameters:
  ///   - storage: a row of C functions that lives as long as the program
  ///   - more: what these need beside `data`; `owners` keep both alive
  package init(
    rows: Int, columns: Int, _ storage: UnsafePointer<nibble_storage>, data: UnsafeRawPointer, more: UnsafeRawPointer? = nil,
    isTransposed: Bool = false, owners: [AnyObject]
  ) {
    var native = nibble_matrix()
    (native.rows, native.columns, native.storage, native.data, native.more) = (rows, columns, storage, data, more)
    self.init(native, isTransposed: isTransposed, owners: owners)
  }

  /// Rows of float32 in memory of their own.
  package init(_ values: [Float], rows: Int, columns: Int, isTransposed: Bool = false) {
    let store = FloatStore(values)
    var native = nibble_matrix()
    native.rows = rows
    native.columns = columns
    native.number = nibble_f32
    native.data = UnsafeRawPointer(store.start)
    self.init(native, isTransposed: isTransposed, owners: [store])
  }

  /// Rows of float32 where they lie.
  package init(_ store: FloatStore, rows: Int, columns: Int) {
    var native = nibble_matrix()
    native.rows = rows
    native.columns = columns
    native.number = nibble_f32
    native.data = UnsafeRawPointer(store.start)
    self.init(native, isTransposed: false, owners: [store])
  }

  /// Where the scales of packed codes are.
  package enum Scales {
    /// float32, one a block.
    case plain(UnsafeRawBufferPointer)
    /// 8-bit codes, their own scales, and the value they are relative to.
    case coded(UnsafeRawBufferPointer, nested: UnsafeRawBufferPointer, offset: Float)
  }

  /// 4-bit codes, [rows, columns] as stored.
  ///
  /// - Returns: nil if the sections are not as long as the codec has them
  package init?(
    _ codec: BlockCodec, rows: Int, columns: Int, codes: UnsafeRawBufferPointer, _ scales: Scales, isTransposed: Bool = false,
    owner: AnyObject
  ) {
    let count = rows * columns
    guard codes.count == codec.codeBytes(count), let data = codes.baseAddress else { return nil }
    let codebook = FloatStore(codec.codebook.values)
    var owners: [AnyObject] = [owner, codebook]
    var native = nibble_matrix()
    native.rows = rows
    native.columns = columns
    native.storage = nibble_block_storage()
    native.data = data
    native.block = codec.blockSize
    native.codebook = UnsafePointer(codebook.start)
    switch (scales, codec.nested) {
    case (.plain(let bytes), nil):
      guard bytes.count == 4 * codec.blocks(count) else { return nil }
      native.scales = bytes.baseAddress?.assumingMemoryBound(to: Float.self)
    case (.coded(let bytes, let nestedBytes, let offset), let nested?):
      guard bytes.count == codec.blocks(count), nestedBytes.count == 4 * codec.nestedBlocks(count) else { return nil }
      let map = FloatStore(nested.codebook.values)
      owners.append(map)
      native.scale_codes = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
      native.scale_map = UnsafePointer(map.start)
      native.nested_scales = nestedBytes.baseAddress?.assumingMemoryBound(to: Float.self)
      native.nested_block = nested.blockSize
      native.offset = offset
    default: return nil
    }
    self.init(native, isTransposed: isTransposed, owners: owners)
  }
}

extension Matrix {
  /// Signed bytes with a float32 scale a row, [rows, columns] as stored.
  ///
  /// - Returns: nil if there are not as many codes and scales
  package init?(
    rows: Int, columns: Int, codes: UnsafeRawBufferPointer, scales: UnsafeRawBufferPointer, isTransposed: Bool = false,
    owner: AnyObject
  ) {
    guard codes.count == rows * columns, scales.count == 4 * rows, let data = codes.baseAddress, let scales = scales.baseAddress
    else { return nil }
    self.init(
      MatrixView(rows: rows, columns: columns, bytes: data, scales: scales).native, isTransposed: isTransposed, owners: [owner])
  }

  /// The same with numbers added to groups of stored rows.
  func adding(_ offsets: GroupOffsets) -> Matrix { Matrix(native, isTransposed: isTransposed, offsets: offsets, owners: owners) }

  /// Some of its rows where they lie; nil where what is stored cannot be parted there.
  package func part(_ rows: Range<Int>) -> Matrix? {
    guard !isTransposed, offsets == nil, 0 <= rows.lowerBound, rows.upperBound <= native.rows, let data = native.data else { return nil }
    var own = native
    let first = rows.lowerBound * native.columns
    own.rows = rows.count
    guard let storage = native.storage else {
      own.data = data + first * (native.number == nibble_f32 ? 4 : 2)
      return Matrix(own, isTransposed: false, owners: owners)
    }
    if storage.pointee.bytes != 0 {
      own.data = data + first
      own.scales = native.scales.map { $0 + rows.lowerBound }
      return Matrix(own, isTransposed: false, owners: owners)
    }
    guard storage.pointee.blocks != 0, first % native.block == 0 else { return nil }
    let blocks = first / native.block
    own.data = data + first / 2
    own.scales = native.scales.map { $0 + blocks }
    if native.scales == nil {
      guard blocks % native.nested_block == 0 else { return nil }
      own.scale_codes = native.scale_codes.map { $0 + blocks }
      own.nested_scales = native.nested_scales.map { $0 + blocks / native.nested_block }
    }
    return Matrix(own, isTransposed: false, owners: owners)
  }

  /// The weight's transpose: the same memory, read the other way.
  package var turned: Matrix { Matrix(native, isTransposed: !isTransposed, offsets: offsets, owners: owners) }

  /// y = x · Wᵀ for some outputs, whichever way the weight is stored.
  func multiply(
    _ compute: Compute, _ packed: UnsafeRawPointer, m: Int, outputs: Range<Int>, add: Bool, into y: UnsafeMutablePointer<Float>,
    stride: Int, _ scratch: Scratch, slot: Int, variant: KernelVariant
  ) {
    let bytes = ProductKernels.scratchBytes(compute, view, m: m, count: outputs.count, variant: variant)
    let product = isTransposed ? ProductKernels.multiplyTransposed : ProductKernels.multiply
    product(compute, view, packed, m, outputs, add, y, stride, scratch.start(slot, bytes), variant)
  }

  /// Rows as stored, as float32.
  package func rows(_ rows: Range<Int>, into out: UnsafeMutablePointer<Float>) {
    ProductKernels.rows(view, rows, into: out)
    offsets?.add(to: out, rows, columns: native.columns)
  }

  /// Whether both hold the same numbers, as stored, whatever holds them.
  package func equals(_ other: Matrix) -> Bool {
    guard native.rows == other.native.rows, native.columns == other.native.columns else { return false }
    if !isPacked, !other.isPacked, native.number == other.native.number,
      memcmp(native.data, other.native.data, native.rows * native.columns * (native.number == nibble_f32 ? 4 : 2)) == 0
    {
      return true
    }
    // Different matrices mostly differ in their first rows.
    let together = max(1, (1 << 16) / max(native.columns, 1))
    let (own, others) = (FloatStore(count: together * native.columns), FloatStore(count: together * native.columns))
    for start in stride(from: 0, to: native.rows, by: together) {
      let part = start..<min(start + together, native.rows)
      rows(part, into: own.start)
      other.rows(part, into: others.start)
      for place in 0..<part.count * native.columns where own.start[place] != others.start[place] { return false }
    }
    return true
  }

  /// Rows as stored, by number, one after another.
  package func lookUp(_ indices: [Int], into out: UnsafeMutablePointer<Float>) {
    for (place, index) in indices.enumerated() { rows(index..<index + 1, into: out + place * native.columns) }
  }
}

/// Floats at a fixed, aligned address.
package final class FloatStore: @unchecked Sendable {
  package let start: UnsafeMutablePointer<Float>
  package let count: Int
  package var values: UnsafeMutableBufferPointer<Float> { .init(start: start, count: count) }

  package init(count: Int) {
    start = UnsafeMutableRawPointer.allocate(byteCount: max(count * 4, 64), alignment: 64).bindMemory(
      to: Float.self, capacity: count)
    self.count = count
  }

  package convenience init(_ floats: [Float]) {
    self.init(count: floats.count)
    _ = values.initialize(from: floats)
  }

  /// Gives the memory behind the first numbers back, as far as whole pages go; what was there is lost.
  package func giveBack(behind first: Int) {
    let page = Int(getpagesize()), address = Int(bitPattern: start)
    let from = ((address + 4 * first + page - 1) / page) * page, end = (address + 4 * count) / page * page
    if from < end { madvise(UnsafeMutableRawPointer(bitPattern: from), end - from, MADV_DONTNEED) }
  }

  package var doubles: [Double] { (0..<count).map { Double(start[$0]) } }

  deinit { UnsafeMutableRawPointer(start).deallocate() }
}

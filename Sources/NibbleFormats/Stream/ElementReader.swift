import NibbleCore
import NibbleQuant

/// Reads elements of a plain tensor in the order they will be packed: as they are, or by columns where the packed tensor
/// is the transpose of the stored one.
struct ElementReader: Sendable {
  let tensor: StoredTensor
  let reader: SectionReader
  /// Whether element i of the output is the element at row i % rows, column i / rows of what is stored.
  let isTransposing: Bool
  /// Whether the file has the elements in that order.
  private let liesTurned: Bool
  private let width: Int

  init(_ tensor: StoredTensor, transposing: Bool) throws {
    var section = tensor.sections[0]
    if transposing, section.compression != .none {
      // Columns cannot be had from frames: such a tensor is unpacked whole first.
      section = StoredSection(.data, bytes: try SectionReader(section, tensor.name.text).readWhole())
    }
    if transposing, case .turned? = section.order {
      section = section.ordered(nil, section.kind, plainLength: section.storedLength)
      liesTurned = true
    } else {
      liesTurned = false
    }
    self.tensor = tensor
    reader = try SectionReader(section, tensor.name.text)
    isTransposing = transposing
    width = tensor.dtype.bitWidth / 8
  }

  /// Elements `start..<start + count` in packing order.
  ///
  /// - Returns: the elements' bytes and, unless transposing, the stored bytes to be admitted
  func read(
    _ start: Int, _ count: Int, _ scratch: Scratch
  ) throws -> (elements: UnsafeMutableRawBufferPointer, stored: UnsafeRawBufferPointer) {
    let elements = scratch.bytes(TensorStream.Slot.input, count * width)
    if !isTransposing || liesTurned {
      let stored = try reader.read(start * width, into: elements, scratch, slot: TensorStream.Slot.inputStored)
      return (elements, liesTurned ? UnsafeRawBufferPointer(start: nil, count: 0) : stored)
    }
    let rows = tensor.shape[0]
    var done = 0
    while done < count {
      // Whole columns together; a column that is begun or left in the middle by itself.
      let (column, row) = (start + done).quotientAndRemainder(dividingBy: rows)
      let left = count - done
      let (columns, height) = row == 0 && left >= rows ? (left / rows, rows) : (1, min(rows - row, left))
      let part = UnsafeMutableRawBufferPointer(rebasing: elements[done * width..<(done + columns * height) * width])
      try gather(row, height, column, columns, part, scratch)
      done += columns * height
    }
    return (elements, UnsafeRawBufferPointer(start: nil, count: 0))
  }

  private func gather(
    _ row: Int, _ height: Int, _ column: Int, _ columns: Int, _ out: UnsafeMutableRawBufferPointer, _ scratch: Scratch
  ) throws {
    let strip = scratch.bytes(TensorStream.Slot.gathered, height * columns * width)
    for line in 0..<height {
      let at = ((row + line) * tensor.shape[1] + column) * width
      let part = UnsafeMutableRawBufferPointer(rebasing: strip[line * columns * width..<(line + 1) * columns * width])
      _ = try reader.read(at, into: part, scratch, slot: TensorStream.Slot.inputStored)
    }
    if let from = strip.baseAddress, let to = out.baseAddress {
      Kernels.transpose(tensor.dtype, from, rows: height, columns: columns, stride: columns, to)
    }
  }
}

import NibbleCore
import NibbleQuant

/// Something that is added to a tensor's values on their way: what merging an adapter does.
///
/// Elements are counted in the order in which they are read: a packed tensor's as they are stored; of a plain tensor that is being
/// packed transposed, as they will be stored.
package protocol TensorChange: Sendable {
  /// The change of elements `start..<start + count`, whose values are `values`.
  func delta(
    _ values: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _ scratch: Scratch)

  /// What spans the rows of the change, [rank, columns]; nil where nothing does.
  var rowSpace: RowSpace? { get }
  /// Elements that are changed together: runs begin at multiples of it.
  var grain: Int { get }
  /// Columns, one after another, that the change adds the same to: such a change is made by moving groups of codes, where the tensor has
  /// groups that can be moved. 1 where columns differ.
  var sharedColumns: Int { get }
  /// Rows, one after another, that it adds the same to.
  var sharedRows: Int { get }
  /// The change by groups of so many columns, which divide `sharedColumns`.
  func shift(length: Int) -> GroupShift?
}

extension TensorChange {
  package var rowSpace: RowSpace? { nil }
  package var grain: Int { 1 }
  package var sharedColumns: Int { 1 }
  package var sharedRows: Int { 1 }
  package func shift(length: Int) -> GroupShift? { nil }

  /// Elements as they will be written: changed in float32, rounded once.
  ///
  /// - Parameters:
  ///   - base: what they were; afterwards, what would be written without the change
  ///   - meter: sees what became of the change
  func round(
    _ base: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, to dtype: DType, _ out: UnsafeMutableRawPointer,
    _ meter: ChangeMeter, _ scratch: Scratch
  ) -> ChangeMeter.Piece {
    let delta = scratch.floatStart(TensorStream.Slot.right, count)
    let written = scratch.floatStart(TensorStream.Slot.gathered, count)
    self.delta(base, start, count, into: delta, scratch)
    for i in 0..<count { written[i] = base[i] + delta[i] }
    Kernels.narrow(dtype, base, count: count, out)
    Kernels.widen(dtype, out, count: count, base)
    Kernels.narrow(dtype, written, count: count, out)
    Kernels.widen(dtype, out, count: count, written)
    return meter.measure(start, count, base: base, written: written, delta: delta, scratch)
  }
}

/// Scratch slots that changes may use.
package enum ChangeSlot {
  package static let first = 12
}

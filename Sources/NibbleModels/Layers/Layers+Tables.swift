import NibbleAdapters
import NibbleCompute
import NibbleCore

/// What adapters make of rows that are looked up in a table: y = s∘(W[id] + pair[id]), the table taken for a layer whose inputs are its
/// rows.
extension Layers {
  /// Turns rows of the table in force into what active adapters make of them.
  ///
  /// - Parameter rows: [ids, width]
  func adapt(_ ids: [Int], of table: Embedding, _ segment: Segment, _ rows: Floats, _ engine: Engine) {
    let methods = segment.tables(table.id)
    guard !methods.isEmpty else { return }
    for (method, weight) in methods { method.lookup?.add(ids, weight: weight, to: rows, engine, scratch) }
    for (method, _) in methods {
      guard let scale = outputs(method, table, segment).scale else { continue }
      for row in ids.indices { LayerKernels.multiply(rows + row * table.width, by: scale.start, count: table.width) }
    }
  }

  private func outputs(_ method: any AdapterMethod, _ table: Embedding, _ segment: Segment) -> OutputChange {
    method.outputs(of: segment.matrix(table.id, table.matrix).turned, exact)
  }

  /// Adds to the gradients of what adapts a table.
  ///
  /// - Parameters:
  ///   - gradient: of the rows, [ids, width]
  ///   - hand: memory for two times as many numbers
  func adaptBack(
    _ ids: [Int], of table: Embedding, _ segment: Segment, _ gradient: UnsafePointer<Float>, _ own: PartGradients, _ hand: Floats
  ) {
    guard let method = segment.tables(table.id).last?.method else { return }
    guard type(of: method).scalesOutputs else {
      method.lookup?.backward(ids, gradient, own, exact, scratch)
      return
    }
    // What was scaled is looked up once more.
    let count = ids.count * table.width, z = hand + count
    segment.matrix(table.id, table.matrix).lookUp(ids, into: z)
    method.lookup?.add(ids, weight: 1, to: z, exact, scratch)
    hand.update(from: gradient, count: count)
    method.backward(
      OutputGradient(hand, stride: table.width, rows: ids.count, count: table.width, z: z, outputs(method, table, segment), exact), own)
    method.lookup?.backward(ids, hand, own, exact, scratch)
  }
}

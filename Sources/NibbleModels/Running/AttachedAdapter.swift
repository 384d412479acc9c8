import NibbleAdapters
import NibbleCompute
import NibbleCore

/// An adapter fitted to one open base: what it adds to each layer and which parameters it takes the place of.
package final class AttachedAdapter: Sendable {
  package let name: String
  /// By the parameter of the layer's weight.
  package let methods: [ParameterID: any AdapterMethod]
  /// By the parameter of the embedding.
  package let tables: [ParameterID: any AdapterMethod]
  /// Biases, norms and whole matrices that were trained themselves.
  package let vectors: [ParameterID: FloatStore]
  package let matrices: [ParameterID: Matrix]
  /// Rows that tokens have of their own, of tables and of heads.
  package let rows: [ParameterID: TokenRows]
  /// Weights with what the adapter adds to them in them, where products are to be made with these.
  package let merged: MergedWeights?

  package init(
    name: String, methods: [ParameterID: any AdapterMethod], tables: [ParameterID: any AdapterMethod],
    vectors: [ParameterID: FloatStore], matrices: [ParameterID: Matrix],
    rows: [ParameterID: TokenRows] = [:], merged: MergedWeights? = nil
  ) {
    self.name = name
    self.methods = methods
    self.tables = tables
    self.vectors = vectors
    self.matrices = matrices
    self.rows = rows
    self.merged = merged
  }
}

/// Weights of layers with an adapter's change in them. Training makes them anew between passes.
package final class MergedWeights: @unchecked Sendable {
  package var matrices: [ParameterID: Matrix] = [:]

  package init() {}
}

/// Rows of a batch that share their adapters.
struct Segment {
  var rows: Range<Int>
  var adapters: [ActiveAdapter]

  /// The vector in force: the last active adapter's own, or the base's.
  func vector(_ vector: Vector) -> UnsafePointer<Float> {
    for active in adapters.reversed() {
      if let own = active.adapter.vectors[vector.id] { return UnsafePointer(own.start) }
    }
    return UnsafePointer(vector.values.start)
  }

  /// The matrix in force for parameter `id`.
  func matrix(_ id: ParameterID, _ base: Matrix) -> Matrix {
    for active in adapters.reversed() {
      if let own = active.adapter.merged?.matrices[id] ?? active.adapter.matrices[id] { return own }
    }
    return base
  }

  /// Rows in force over the matrix in force.
  func rows(_ id: ParameterID) -> TokenRows? { adapters.last { $0.adapter.rows[id] != nil }?.adapter.rows[id] }

  func replaces(_ id: ParameterID) -> Bool { adapters.contains { $0.adapter.matrices[id] != nil } || holdsPairs(id) }

  /// Whether the matrix in force holds what pairs add to it.
  func holdsPairs(_ id: ParameterID) -> Bool { adapters.contains { $0.adapter.merged?.matrices[id] != nil } }

  /// What active adapters make of the layer whose weight is parameter `id`.
  func methods(_ id: ParameterID) -> [(method: any AdapterMethod, weight: Float)] {
    adapters.compactMap { active in active.adapter.methods[id].map { ($0, active.weight) } }
  }

  /// What active adapters make of the rows of a table.
  func tables(_ id: ParameterID) -> [(method: any AdapterMethod, weight: Float)] {
    adapters.compactMap { active in active.adapter.tables[id].map { ($0, active.weight) } }
  }

  /// How active adapters change what that layer takes.
  func input(_ id: ParameterID) -> (any InputChange)? { methods(id).lazy.compactMap(\.method.input).first }

  /// The segments of a batch with so many rows of each input: neighbours with the same adapters together.
  static func segments(_ counts: [Int], _ adapters: [[ActiveAdapter]]) -> [Segment] {
    var segments: [Segment] = []
    var row = 0
    for (count, own) in zip(counts, adapters) {
      let rows = row..<row + count
      row = rows.upperBound
      if let last = segments.last, last.isLike(own) {
        segments[segments.count - 1].rows = last.rows.lowerBound..<rows.upperBound
      } else {
        segments.append(Segment(rows: rows, adapters: own))
      }
    }
    return segments
  }

  private func isLike(_ others: [ActiveAdapter]) -> Bool {
    adapters.count == others.count
      && zip(adapters, others).allSatisfy { $0.adapter === $1.adapter && $0.weight == $1.weight }
  }
}

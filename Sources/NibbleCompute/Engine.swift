import CNibbleKernels
import NibbleCore
import NibbleQuant

/// Multiplies activations with weight matrices: one left-hand side, any number of matrices, one loop over all outputs.
///
/// One engine serves one computation at a time.
package final class Engine: @unchecked Sendable {
  package let compute: Compute
  package let team: Team
  package let variant: KernelVariant
  private let scratch = Scratch()

  package init(_ compute: Compute, team: Team, variant: KernelVariant = .current) {
    self.compute = compute
    self.team = team
    self.variant = variant
  }

  /// One matrix and where its outputs go: y[i · stride + j] for row i of x and output j.
  package struct Product {
    package var matrix: Matrix
    package var output: UnsafeMutablePointer<Float>
    package var stride: Int
    /// What is added to rows of the output in the same pass.
    package var terms: [LowRankTerm]
    /// Whether the product is added to what the output holds.
    package var adds: Bool

    package init(
      _ matrix: Matrix, _ output: UnsafeMutablePointer<Float>, stride: Int, terms: [LowRankTerm] = [], adds: Bool = false
    ) {
      self.adds = adds
      self.matrix = matrix
      self.output = output
      self.stride = stride
      self.terms = terms
    }
  }

  /// scale · x · Aᵀ · Bᵀ for some rows of x.
  package struct LowRankTerm {
    /// [rank, inputs]
    package var a: Matrix
    /// [outputs, rank]
    package var b: Matrix
    package var scale: Float
    package var rows: Range<Int>

    package init(a: Matrix, b: Matrix, scale: Float, rows: Range<Int>) {
      self.a = a
      self.b = b
      self.scale = scale
      self.rows = rows
    }
  }

  private enum Slot { static let packed = 0, packedRows = 1, lowRank = 2, packedLowRank = 3, kernel = 4, ownPacked = 5 }

  /// Outputs computed together where OpenBLAS does it: fixed, so that sums do not depend on the number of threads.
  private static let blasRun = 512
  /// Rows from which OpenBLAS is asked for products of float32.
  private static let blasRows = 8

  /// y = x · Wᵀ for every product, x[m, inputs] with rows `stride` floats apart.
  package func multiply(_ x: UnsafePointer<Float>, rows m: Int, stride: Int, _ products: [Product]) {
    guard m > 0 else { return }
    var packed: UnsafeRawPointer?
    if products.contains(where: { !usesBLAS($0.matrix, m) }), let inputs = products.first?.matrix.inputs {
      packed = pack(compute, x, m, inputs, stride, slot: Slot.packed)
    }
    let terms = lowRankInputs(x, rows: m, stride: stride, products)
    var runs: [(product: Int, range: Range<Int>)] = []
    for (index, product) in products.enumerated() {
      let length = runLength(product.matrix, m)
      for start in Swift.stride(from: 0, to: product.matrix.outputs, by: length) {
        runs.append((index, start..<min(start + length, product.matrix.outputs)))
      }
    }
    team.run(runs.count) { index, scratch in
      let (product, range) = runs[index]
      base(products[product], range, x, m, stride, packed, scratch)
      for term in terms where term.product == product { add(term, products[product], range, scratch) }
    }
  }

  /// One product among several small ones, each of which has another x.
  package struct OwnProduct {
    package var x: UnsafePointer<Float>
    package var product: Product

    package init(_ x: UnsafePointer<Float>, _ matrix: Matrix, _ output: UnsafeMutablePointer<Float>, stride: Int) {
      (self.x, product) = (x, Product(matrix, output, stride: stride))
    }
  }

  /// Computes every product, x[m, inputs] of each with rows `stride` floats apart, without terms.
  package func multiply(rows m: Int, stride: Int, each products: [OwnProduct]) {
    guard m > 0, let first = products.first?.product.matrix else { return }
    let body = { [compute, variant] (index: Int, scratch: Scratch) in
      let (x, own) = (products[index].x, products[index].product), k = own.matrix.inputs
      let packed = scratch.start(Slot.ownPacked, ProductKernels.packedBytes(compute, m: m, k: k, variant: variant))
      ProductKernels.pack(compute, x, m: m, k: k, stride: stride, into: packed, variant: variant)
      own.matrix.multiply(
        compute, packed, m: m, outputs: 0..<own.matrix.outputs, add: false, into: own.output, stride: own.stride, scratch, slot: Slot.kernel,
        variant: variant)
    }
    // Little work is done before a thread wakes.
    if products.count * m * first.inputs * first.outputs < 1 << 18 {
      let scratch = team.serialScratch
      for index in products.indices { body(index, scratch) }
    } else {
      team.run(products.count, body)
    }
  }

  private func usesBLAS(_ matrix: Matrix, _ m: Int) -> Bool {
    compute == .f32 && m >= Self.blasRows && !matrix.isPacked && matrix.native.number == nibble_f32 && BLAS.isThere
  }

  /// Outputs one thread takes at a time: work worth its while, and enough of it for every thread.
  private func runLength(_ matrix: Matrix, _ m: Int) -> Int {
    if usesBLAS(matrix, m) { return Self.blasRun }
    if team.threads == 1 { return max(matrix.outputs, 1) }
    let nanoseconds = max(Double(matrix.bytesPerOutput) / 16, 2 * Double(m) * Double(matrix.inputs) / 200)
    let step = ProductKernels.step(compute, m: m, variant: variant)
    let wanted = min(max(Int(20_000 / max(nanoseconds, 0.1)), 1), ceilDivide(matrix.outputs, team.threads))
    return max(ceilDivide(wanted, step) * step, 1)
  }

  private func pack(
    _ compute: Compute, _ x: UnsafePointer<Float>, _ m: Int, _ k: Int, _ stride: Int, slot: Int
  ) -> UnsafeRawPointer {
    let start = scratch.start(slot, ProductKernels.packedBytes(compute, m: m, k: k, variant: variant))
    ProductKernels.pack(compute, x, m: m, k: k, stride: stride, into: start, variant: variant)
    return UnsafeRawPointer(start)
  }

  private func base(
    _ product: Product, _ range: Range<Int>, _ x: UnsafePointer<Float>, _ m: Int, _ stride: Int, _ packed: UnsafeRawPointer?,
    _ scratch: Scratch
  ) {
    let matrix = product.matrix
    if usesBLAS(matrix, m), let weights = matrix.native.data?.assumingMemoryBound(to: Float.self) {
      let columns = matrix.native.columns
      let start = matrix.isTransposed ? weights + range.lowerBound : weights + range.lowerBound * columns
      _ = BLAS.multiply(
        x, stride, start, columns, transposed: !matrix.isTransposed, product.output + range.lowerBound, product.stride, m: m,
        n: range.count, k: matrix.inputs, beta: product.adds ? 1 : 0)
    } else if let packed {
      matrix.multiply(
        compute, packed, m: m, outputs: range, add: product.adds, into: product.output, stride: product.stride, scratch,
        slot: Slot.kernel, variant: variant)
    }
  }

  // MARK: Low-rank terms

  /// Products of numbers that are worth a thread's while.
  private static let lowRankWork = 1 << 14

  /// Something that is added to a product by way of a few numbers for each row of x.
  private struct Term {
    /// How these numbers are made of a row of x.
    enum First { case factor(Matrix), sums(GroupOffsets) }
    /// What is made of them.
    enum Second { case factor(Matrix), spread(GroupOffsets) }

    var product: Int
    var rows: Range<Int>
    var first: First
    var second: Second
    var scale: Float = 1

    /// Numbers for each row.
    var rank: Int {
      switch first {
      case .factor(let matrix): matrix.outputs
      case .sums(let offsets): offsets.groups
      }
    }
  }

  /// Its numbers, plain and packed.
  private struct PackedTerm {
    var term: Term
    var values: UnsafeMutablePointer<Float>
    var packed: UnsafeRawPointer
    var product: Int { term.product }
  }

  /// Adapters' pairs, and the offsets of groups.
  private func terms(_ products: [Product], _ m: Int) -> [Term] {
    products.enumerated().flatMap { index, product in
      let pairs = product.terms.map {
        Term(product: index, rows: $0.rows, first: .factor($0.a), second: .factor($0.b), scale: $0.scale)
      }
      guard let offsets = product.matrix.offsets else { return pairs }
      let own =
        product.matrix.isTransposed
        ? Term(product: index, rows: 0..<m, first: .factor(offsets.matrix.turned), second: .spread(offsets))
        : Term(product: index, rows: 0..<m, first: .sums(offsets), second: .factor(offsets.matrix))
      return [own] + pairs
    }
  }

  /// First halves of all terms; they are computed in float32.
  private func lowRankInputs(_ x: UnsafePointer<Float>, rows m: Int, stride: Int, _ products: [Product]) -> [PackedTerm] {
    let all = terms(products, m)
    guard !all.isEmpty, let inputs = products.first?.matrix.inputs else { return [] }
    // x packed once for each distinct range of rows, all of them side by side.
    var starts: [Range<Int>: Int] = [:]
    var length = 0
    for term in all where starts[term.rows] == nil {
      guard case .factor = term.first else { continue }
      starts[term.rows] = length
      length += ProductKernels.packedBytes(.f32, m: term.rows.count, k: inputs, variant: variant)
    }
    let packedRows = scratch.start(Slot.packedRows, length)
    for (rows, start) in starts {
      ProductKernels.pack(
        .f32, x + rows.lowerBound * stride, m: rows.count, k: inputs, stride: stride, into: packedRows + start, variant: variant)
    }
    let sizes = all.map { $0.rows.count * $0.rank }
    let packedSizes = all.map { ProductKernels.packedBytes(.f32, m: $0.rows.count, k: $0.rank, variant: variant) }
    let values = scratch.floatStart(Slot.lowRank, sizes.reduce(0, +))
    let packed = scratch.start(Slot.packedLowRank, packedSizes.reduce(0, +))
    var results: [PackedTerm] = []
    var at = 0
    var packedAt = 0
    for (index, term) in all.enumerated() {
      results.append(PackedTerm(term: term, values: values + at, packed: UnsafeRawPointer(packed + packedAt)))
      at += sizes[index]
      packedAt += packedSizes[index]
    }
    // Ranks are handed out in parts, sums in rows: of one term, too, there is enough for every thread.
    var parts: [(term: Int, part: Range<Int>)] = []
    for (index, term) in all.enumerated() {
      var (count, length) = (term.rank, 0)
      if case .factor = term.first {
        length = max(
          ceilDivide(Self.lowRankWork, inputs * term.rows.count),
          term.rows.count == 1 ? 1 : ProductKernels.step(.f32, m: term.rows.count, variant: variant))
      } else {
        (count, length) = (term.rows.count, max(1, Self.lowRankWork / max(inputs, 1)))
      }
      for start in Swift.stride(from: 0, to: count, by: length) { parts.append((index, start..<min(start + length, count))) }
    }
    team.run(parts.count) { [variant] number, scratch in
      let (index, part) = parts[number]
      let (term, out) = (all[index], results[index].values)
      switch term.first {
      case .factor(let matrix):
        matrix.multiply(
          .f32, UnsafeRawPointer(packedRows + (starts[term.rows] ?? 0)), m: term.rows.count, outputs: part, add: false,
          into: out, stride: term.rank, scratch, slot: Slot.kernel, variant: variant)
      case .sums(let offsets):
        for row in part { offsets.sums(x + (term.rows.lowerBound + row) * stride, out + row * term.rank) }
      }
    }
    for (index, one) in results.enumerated() {
      guard case .factor = one.term.second else { continue }
      if one.term.scale != 1 { for i in 0..<sizes[index] { one.values[i] *= one.term.scale } }
      ProductKernels.pack(
        .f32, one.values, m: one.term.rows.count, k: one.term.rank, stride: one.term.rank,
        into: UnsafeMutableRawPointer(mutating: one.packed), variant: variant)
    }
    return results
  }

  private func add(_ one: PackedTerm, _ product: Product, _ range: Range<Int>, _ scratch: Scratch) {
    let out = product.output + one.term.rows.lowerBound * product.stride
    switch one.term.second {
    case .factor(let matrix):
      matrix.multiply(
        .f32, one.packed, m: one.term.rows.count, outputs: range, add: true, into: out, stride: product.stride, scratch,
        slot: Slot.kernel, variant: variant)
    case .spread(let offsets):
      for row in 0..<one.term.rows.count {
        offsets.spread(one.values + row * one.term.rank, range, to: out + row * product.stride + range.lowerBound)
      }
    }
  }
}

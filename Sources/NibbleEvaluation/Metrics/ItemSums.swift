/// Numbers of each item of which a figure is a function of the sums; most of them 0, so only the others are kept.
struct ItemSums: Sendable {
  /// Numbers an item has.
  let width: Int
  private var starts = [0]
  private var columns: [Int32] = []
  private var values: [Double] = []

  init(width: Int) { self.width = width }

  /// One item that has a number for every column.
  mutating func add(_ row: [Double]) {
    for (column, value) in row.enumerated() where value != 0 { append(column, value) }
    starts.append(columns.count)
  }

  /// One item by the columns in which it counts 1.
  mutating func add(ones: some Sequence<Int>) {
    for column in ones { append(column, 1) }
    starts.append(columns.count)
  }

  private mutating func append(_ column: Int, _ value: Double) {
    columns.append(Int32(column))
    values.append(value)
  }

  var count: Int { starts.count - 1 }

  /// The sums over all items.
  var total: [Double] { total(times: Array(repeating: 1, count: count)) }

  /// The sums with each item counted as often as told.
  func total(times: [Int32]) -> [Double] {
    var sums = Array(repeating: 0.0, count: width)
    sums.withUnsafeMutableBufferPointer { sums in
      columns.withUnsafeBufferPointer { columns in
        values.withUnsafeBufferPointer { values in
          for item in 0..<count {
            let weight = Double(times[item])
            if weight == 0 { continue }
            for at in starts[item]..<starts[item + 1] { sums[Int(columns[at])] += weight * values[at] }
          }
        }
      }
    }
    return sums
  }
}

/// `start:stop:step`, any of them left out.
struct Slice {
  let start: Int?, stop: Int?, step: Int

  /// - Throws: a type error for what is no index, a value error for a step of zero
  init(_ start: Value, _ stop: Value, _ step: Value) throws {
    func index(_ value: Value) throws -> Int? {
      if case .none = value { return nil }
      if case .undefined(let undefined) = value { _ = undefined }
      guard let index = value.index else {
        throw TemplateError(.type, "slice indices must be integers or None, not \(value.typeName)")
      }
      return index
    }
    (self.start, self.stop, self.step) = (try index(start), try index(stop), try index(step) ?? 1)
    if self.step == 0 { throw TemplateError(.value, "slice step cannot be zero") }
  }

  init(start: Int?, stop: Int?) { (self.start, self.stop, step) = (start, stop, 1) }

  private func clamped(_ index: Int, _ count: Int) -> Int {
    let lowest = step < 0 ? -1 : 0, highest = step < 0 ? count - 1 : count
    let place = index < 0 ? index &+ count : index
    return index < 0 && place < 0 ? lowest : min(max(place, lowest), highest)
  }

  func firstPlace(of count: Int) -> Int { start.map { clamped($0, count) } ?? (step < 0 ? count - 1 : 0) }

  /// The places it takes of a sequence of `count` elements, in order.
  func places(of count: Int) -> [Int] {
    let first = firstPlace(of: count)
    let end = stop.map { clamped($0, count) } ?? (step < 0 ? -1 : count)
    // A step beyond the sequence takes one element; smaller ones cannot overflow.
    let stride = max(-count - 1, min(step, count + 1))
    return Array(Swift.stride(from: first, to: end, by: stride))
  }

  /// As the methods of strings take their bounds: within `0...count`.
  func bounds(of count: Int) -> (start: Int, end: Int) {
    let start = start ?? 0, stop = stop ?? count
    return (start < 0 ? max(0, start &+ count) : start, stop < 0 ? max(0, stop &+ count) : min(stop, count))
  }
}

extension Value {
  /// `self[start:stop:step]`.
  func sliced(_ slice: Slice, _ budget: Budget) throws -> Value {
    func spend(_ count: Int) throws { try budget.spend(count / 8 + 1) }
    switch self {
    case .text(let text):
      let places = slice.places(of: text.count)
      try budget.spendText(places.count)
      if slice.step == 1, let first = places.first { return .text(text[first..<first + places.count]) }
      return .text(Text(places.map { text.scalars[$0] }))
    case .list(let list):
      let places = slice.places(of: list.items.count)
      try spend(places.count)
      return try .list(of: places.map { list.items[$0] })
    case .tuple(let list):
      let places = slice.places(of: list.items.count)
      try spend(places.count)
      return try .tuple(of: places.map { list.items[$0] })
    case .object(let range as NumberRange): return .object(range.slice(slice))
    case .undefined(let undefined): throw undefined.error
    case .dict: throw TemplateError(.type, "unhashable type: 'slice'")
    default: throw TemplateError(.type, "'\(typeName)' object is not subscriptable")
    }
  }
}

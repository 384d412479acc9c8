import Glibc

/// The arithmetic of Python.
enum Operator: String {
  case add = "+", subtract = "-", multiply = "*", divide = "/", floorDivide = "//", modulo = "%", power = "**"

  func callAsFunction(_ a: Value, _ b: Value, _ renderer: Renderer) throws -> Value {
    if case .undefined(let undefined) = a { throw undefined.error }
    if self == .modulo, case .text(let format) = a { return .text(try PercentFormat(format, b, renderer).text()) }
    if case .undefined(let undefined) = b { throw undefined.error }
    if let sequence = try onSequences(a, b, renderer.budget) { return sequence }
    if let a = a.index, let b = b.index { return try onInts(a, b) }
    guard let x = a.number, let y = b.number else {
      throw TemplateError(.type, "unsupported operand type(s) for \(rawValue): '\(a.typeName)' and '\(b.typeName)'")
    }
    return .float(try onFloats(x, y))
  }

  private func onSequences(_ a: Value, _ b: Value, _ budget: Budget) throws -> Value? {
    switch (self, a, b) {
    case (.add, .text(let a), .text(let b)):
      try budget.spendText(a.count + b.count)
      return .text(a + b)
    case (.add, .list(let a), .list(let b)):
      try budget.spend(a.items.count + b.items.count)
      return try .list(of: a.items + b.items)
    case (.add, .tuple(let a), .tuple(let b)):
      try budget.spend(a.items.count + b.items.count)
      return try .tuple(of: a.items + b.items)
    case (.multiply, .text, _), (.multiply, .list, _), (.multiply, .tuple, _):
      guard let times = b.index else { throw TemplateError(.type, "can't multiply sequence by non-int of type '\(b.typeName)'") }
      return try Self.repeated(a, times, budget)
    case (.multiply, _, .text), (.multiply, _, .list), (.multiply, _, .tuple):
      guard let times = a.index else { throw TemplateError(.type, "can't multiply sequence by non-int of type '\(a.typeName)'") }
      return try Self.repeated(b, times, budget)
    default: return nil
    }
  }

  private static func repeated(_ value: Value, _ times: Int, _ budget: Budget) throws -> Value {
    func items(_ list: List) throws -> [Value] {
      try budget.spendRepeated(list.items.count, times: times, isText: false)
      return Array([[Value]](repeating: list.items, count: max(0, list.items.isEmpty ? 0 : times)).joined())
    }
    switch value {
    case .text(let text):
      try budget.spendRepeated(text.count, times: times, isText: true)
      return .text(Text(Array([[Unicode.Scalar]](repeating: text.scalars, count: text.isEmpty ? 0 : max(0, times)).joined())))
    case .list(let list): return try .list(of: items(list))
    case .tuple(let list): return try .tuple(of: items(list))
    default: return value
    }
  }

  private static let tooLarge = TemplateError(.arithmetic, "an integer beyond 64 bits; Python's big integers are not supported")
  private static let byZero = TemplateError(.arithmetic, "division by zero")

  private func onInts(_ a: Int, _ b: Int) throws -> Value {
    func checked(_ result: (partialValue: Int, overflow: Bool)) throws -> Value {
      guard !result.overflow else { throw Self.tooLarge }
      return .int(result.partialValue)
    }
    switch self {
    case .add: return try checked(a.addingReportingOverflow(b))
    case .subtract: return try checked(a.subtractingReportingOverflow(b))
    case .multiply: return try checked(a.multipliedReportingOverflow(by: b))
    case .divide:
      guard b != 0 else { throw Self.byZero }
      return .float(Double(a) / Double(b))
    case .floorDivide:
      guard b != 0 else { throw Self.byZero }
      guard !(a == .min && b == -1) else { throw Self.tooLarge }
      let quotient = a / b
      return .int(a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient)
    case .modulo:
      guard b != 0 else { throw TemplateError(.arithmetic, "integer modulo by zero") }
      guard b != -1 else { return .int(0) }
      let rest = a % b
      return .int(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest)
    case .power:
      guard b >= 0 else { return .float(try onFloats(Double(a), Double(b))) }
      return try .int(Self.power(a, b))
    }
  }

  private static func power(_ base: Int, _ exponent: Int) throws -> Int {
    if base == 0 || base == 1 { return exponent == 0 ? 1 : base }
    if base == -1 { return exponent % 2 == 0 ? 1 : -1 }
    guard exponent < 64 else { throw tooLarge }
    var result = 1
    for _ in 0..<exponent {
      let (next, hasOverflown) = result.multipliedReportingOverflow(by: base)
      guard !hasOverflown else { throw tooLarge }
      result = next
    }
    return result
  }

  private func onFloats(_ a: Double, _ b: Double) throws -> Double {
    switch self {
    case .add: return a + b
    case .subtract: return a - b
    case .multiply: return a * b
    case .divide:
      guard b != 0 else { throw TemplateError(.arithmetic, "float division by zero") }
      return a / b
    case .floorDivide:
      guard b != 0 else { throw TemplateError(.arithmetic, "float floor division by zero") }
      // As CPython: from the remainder, so that both agree.
      let rest = fmod(a, b)
      var quotient = (a - rest) / b
      if rest != 0, (b < 0) != (rest < 0) { quotient -= 1 }
      guard quotient != 0 else { return copysign(0, a / b) }
      let floor = Glibc.floor(quotient)
      return quotient - floor > 0.5 ? floor + 1 : floor
    case .modulo:
      guard b != 0 else { throw TemplateError(.arithmetic, "float modulo") }
      let rest = fmod(a, b)
      if rest == 0 { return copysign(0, b) }
      return (b < 0) != (rest < 0) ? rest + b : rest
    case .power:
      if a == 0, b < 0 { throw TemplateError(.arithmetic, "0.0 cannot be raised to a negative power") }
      if a < 0, b.isFinite, b.rounded() != b { throw TemplateError(.arithmetic, "complex numbers are not supported") }
      let result = pow(a, b)
      if result.isInfinite, a.isFinite, b.isFinite { throw TemplateError(.arithmetic, "the result of ** is too large for a float") }
      return result
    }
  }
}

extension Value {
  func negated() throws -> Value {
    switch self {
    case .undefined(let undefined): throw undefined.error
    case .float(let value): return .float(-value)
    default:
      guard let value = index else { throw TemplateError(.type, "bad operand type for unary -: '\(typeName)'") }
      return try Operator.onlyInt(0, minus: value)
    }
  }

  func plus() throws -> Value {
    switch self {
    case .undefined(let undefined): throw undefined.error
    case .float: return self
    default:
      guard let value = index else { throw TemplateError(.type, "bad operand type for unary +: '\(typeName)'") }
      return .int(value)
    }
  }
}

extension Operator {
  fileprivate static func onlyInt(_ a: Int, minus b: Int) throws -> Value { try Operator.subtract.onInts(a, b) }
}

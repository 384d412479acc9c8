/// Evaluated arguments.
struct Arguments {
  var positional: [Value] = []
  var named: [(name: Text, value: Value)] = []

  /// The arguments in the order of a function's parameters; nil for those not given.
  ///
  /// - Parameter required: how many of them must be given
  /// - Throws: a type error, as Python's own for a wrong call
  func bound(_ function: String, _ parameters: [Text], required: Int = 0) throws -> [Value?] {
    func fail(_ message: String) -> TemplateError { TemplateError(.type, "\(function)() \(message)") }
    guard positional.count <= parameters.count else {
      throw fail("takes at most \(parameters.count) arguments (\(positional.count) given)")
    }
    var values: [Value?] = positional + [Value?](repeating: nil, count: parameters.count - positional.count)
    for (name, value) in named {
      guard let place = parameters.firstIndex(of: name) else { throw fail("got an unexpected keyword argument '\(name.string)'") }
      guard values[place] == nil else { throw fail("got multiple values for argument '\(name.string)'") }
      values[place] = value
    }
    if let missing = values.prefix(required).firstIndex(where: { $0 == nil }) {
      throw fail("missing required argument '\(parameters[missing].string)'")
    }
    return values
  }

  /// Arguments of functions that take no names.
  func onlyPositional(_ function: String, _ counts: ClosedRange<Int>) throws -> [Value] {
    guard named.isEmpty else { throw TemplateError(.type, "\(function)() takes no keyword arguments") }
    guard counts.contains(positional.count) else {
      throw TemplateError(.type, "\(function)() takes \(counts.lowerBound) to \(counts.upperBound) arguments, \(positional.count) given")
    }
    return positional
  }
}

extension Value {
  /// - Throws: a type error for what is no whole number
  func wholeNumber(_ what: String) throws -> Int {
    if case .undefined(let undefined) = self { throw undefined.error }
    guard let index else { throw TemplateError(.type, "\(what) must be an integer, not \(typeName)") }
    return index
  }

  /// - Throws: a type error for what is no text
  func onlyText(_ what: String) throws -> Text {
    guard let text else { throw TemplateError(.type, "\(what) must be str, not \(typeName)") }
    return text
  }
}

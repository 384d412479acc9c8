/// A piece of a template's source.
struct Token {
  enum Kind: Equatable {
    /// Text that goes to the output as it is.
    case data
    case variableBegin, variableEnd, blockBegin, blockEnd
    case name, string, integer, float
    case op
    case end
  }

  let kind: Kind
  /// The text of data and names, the value of strings, the spelling of numbers and operators.
  let text: Text
  let line: Int

  func isOperator(_ spelling: Text) -> Bool { kind == .op && text == spelling }
  func isName(_ name: Text) -> Bool { kind == .name && text == name }

  /// As errors name it.
  var description: String {
    switch kind {
    case .data: "template data"
    case .variableBegin: "begin of print statement"
    case .variableEnd: "end of print statement"
    case .blockBegin: "begin of statement block"
    case .blockEnd: "end of statement block"
    case .end: "end of template"
    case .string: "string"
    case .name, .integer, .float, .op: text.string
    }
  }
}

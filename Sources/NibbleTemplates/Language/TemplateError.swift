/// What is wrong with a template or with what it does.
struct TemplateError: Error {
  /// Python's class of the error, for the places that catch some and not others.
  enum Kind {
    case syntax, type, value, lookup, arithmetic, undefined, limit
    /// `raise_exception`: the message is the template's own.
    case raised
  }

  let kind: Kind
  let message: String
  /// From 1.
  var line: Int?

  init(_ kind: Kind, _ message: String, line: Int? = nil) { (self.kind, self.message, self.line) = (kind, message, line) }
}

import Glibc
import NibbleCore

/// A chat template: a text in the language of Jinja, as transformers reads it.
///
/// The language is Jinja's with Python's values, without anything that reaches outside: no files, no other templates, no chance.
/// Parsing and rendering are bounded in steps, depth and size, so a template from somewhere can neither hang nor fill memory.
// Immutable once parsed: nothing of the syntax tree changes.
public struct Template: @unchecked Sendable {
  /// As errors name it.
  public let name: String
  private let body: [Statement]
  /// Whether it may look at kinds of things, such as the parts of a message.
  let mentionsTypes: Bool

  /// What is left of a tag's surroundings.
  public struct Whitespace: Sendable {
    /// The end of a line behind a statement or a comment goes with it.
    public var trimsBlocks: Bool
    /// White space between the start of a line and a statement or a comment goes with it.
    public var stripsBlocks: Bool

    /// Jinja's own choice is neither.
    public init(trimsBlocks: Bool = false, stripsBlocks: Bool = false) {
      (self.trimsBlocks, self.stripsBlocks) = (trimsBlocks, stripsBlocks)
    }
    /// Both, as transformers renders chat templates.
    public static let chat = Whitespace(trimsBlocks: true, stripsBlocks: true)
  }

  /// What rendering gives.
  public struct Rendering: Sendable, Equatable {
    /// The output.
    public let text: String
    /// Parts within `{% generation %}`, as ranges of Unicode scalars of `text`, in the order in which they were rendered.
    public let generated: [Range<Int>]
  }

  /// Parses a template.
  ///
  /// - Parameter name: of the template or its file, for errors
  /// - Throws: `.badInput` with the line of what is wrong
  public init(_ source: String, name: String, whitespace: Whitespace = .chat) throws {
    self.name = name
    mentionsTypes = source.contains("type")
    body = try Self.named(name) {
      guard source.utf8.count <= Limits.source else {
        throw TemplateError(.limit, "a template of \(source.utf8.count) bytes; at most \(Limits.source) are read")
      }
      return try DeepStack.run {
        try Parser.parse(
          Lexer.tokens(of: Text(source), trimsBlocks: whitespace.trimsBlocks, stripsBlocks: whitespace.stripsBlocks))
      }
    }
  }

  /// Renders the template.
  ///
  /// - Parameters:
  ///   - context: variables by name
  ///   - now: seconds since 1970 for `strftime_now`; nil for the clock
  /// - Throws: `.badInput` with the line and what is wrong there; what `raise_exception` was given, where the template raises
  public func render(_ context: [(key: String, value: JSON)], now: Int? = nil) throws -> Rendering {
    try Self.named(name) {
      try DeepStack.run {
        let renderer = Renderer(now: now ?? Int(time(nil)))
        let variables = try context.map { (name: Text($0.key), value: try Value($0.value)) }
        let text = try renderer.render(body, variables)
        return Rendering(text: text.string, generated: renderer.generated)
      }
    }
  }

  private static func named<R>(_ name: String, _ body: () throws -> R) throws -> R {
    do { return try body() } catch let error as TemplateError {
      let place = error.line.map { "\(name):\($0)" } ?? name
      throw NibbleError.badInput("\(path: place): \(error.message)")
    }
  }
}

extension Value {
  /// - Throws: a template error for whole numbers beyond 64 bits
  init(_ json: JSON) throws {
    switch json {
    case .null: self = .none
    case .bool(let value): self = .bool(value)
    case .string(let text): self = .string(text)
    case .array(let elements): self = try .list(of: elements.map { try Value($0) })
    case .object(let members): self = .dict(try Dict(members.map { (.string($0.key), try Value($0.value)) }))
    case .number(let spelling):
      if spelling.utf8.allSatisfy({ (0x30...0x39).contains($0) || $0 == 0x2D }) {
        guard let value = Int(spelling) else {
          throw TemplateError(.arithmetic, "the integer \(spelling.prefix(40)) does not fit 64 bits; Python's big integers are not supported")
        }
        self = .int(value)
      } else {
        self = .float(json.double ?? (spelling.hasPrefix("-") ? -.infinity : .infinity))
      }
    }
  }
}

/// One rendering of a template: what was written, what is left of the limits.
final class Renderer {
  let budget = Budget()
  private var output: [Unicode.Scalar] = []
  /// Outputs that wait while a macro or a block is rendered to a text of its own.
  private var waiting: [[Unicode.Scalar]] = []
  /// Parts of the output that `{% generation %}` marked, in characters.
  private(set) var generated: [Range<Int>] = []
  /// Whether what is printed is constant. Jinja folds it before it renders, and there a slice is a subscript like any other: of what
  /// has none it is undefined, and no error.
  var foldsSlices = false
  /// Seconds since 1970, for `strftime_now`.
  let now: Int
  /// The template's own variables.
  private(set) var root: Frame?
  private var frames: [Frame] = []
  private var namespaces: [Namespace] = []

  init(now: Int) { self.now = now }

  func render(_ body: [Statement], _ context: [(name: Text, value: Value)]) throws -> Text {
    // What is captured may hold itself in a circle, or be a chain too long to be let go of link by link.
    defer {
      for frame in frames { frame.clear() }
      for namespace in namespaces { namespace.clear() }
    }
    let globals = Frame(parent: nil, Globals.all(self))
    let root = Frame(parent: Frame(parent: globals, context))
    self.root = root
    _ = try run(body, root)
    return Text(output)
  }

  func keep(_ frame: Frame) { frames.append(frame) }
  func keep(_ namespace: Namespace) { namespaces.append(namespace) }

  func write(_ text: Text) throws {
    output += text.scalars
    try budget.spendText(text.count)
    guard output.count <= Limits.text else { throw TemplateError(.limit, "an output of more than \(Limits.text) characters") }
  }

  /// What `body` writes, as a text of its own.
  func capture(_ body: () throws -> Flow) throws -> (text: Text, flow: Flow) {
    waiting.append(output)
    output = []
    defer { output = waiting.removeLast() }
    let flow = try body()
    return (Text(output), flow)
  }

  /// A text of the model's: its place is where the whole output ends now.
  func markGenerated(_ text: Text) {
    let start = waiting.first?.count ?? output.count
    generated.append(start..<start + text.count)
  }
}

/// How a body ended.
enum Flow { case normal, breakLoop, continueLoop }

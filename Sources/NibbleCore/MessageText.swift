/// A sentence to the user in which the file, the thing in it and the options that it names are still values.
///
/// Written as a string: `"\(path: file.path): \(tensor: name) is packed"`, `"\(path: output) exists; \(.force) replaces it"`,
/// `"\(.trainedOn, "nf4") merges onto the packed values"`.
public struct MessageText: Sendable, Hashable, ExpressibleByStringInterpolation, CustomStringConvertible {
  /// A piece of the sentence.
  public enum Segment: Sendable, Hashable {
    case text(String)
    /// The file or folder, with the number of the line (`rows.jsonl:7`) where lines are read one by one.
    case path(String)
    /// A tensor, module, key or the like by its name, and how the sentence writes it: `tensor 'name'`.
    case subject(name: String, written: String)
    /// An option, and the value it has or should have.
    case setting(Setting, value: String?)
  }

  /// The sentence, piece by piece.
  public private(set) var segments: [Segment]

  public init(stringLiteral text: String) { segments = text.isEmpty ? [] : [.text(text)] }
  public init(stringInterpolation interpolation: StringInterpolation) { segments = interpolation.segments }
  private init(_ segments: [Segment]) { self.segments = segments }

  public static func + (a: MessageText, b: MessageText) -> MessageText {
    var sum = a
    for segment in b.segments { sum.segments.append(piece: segment) }
    return sum
  }

  /// The file or folder that the sentence is about: the first it names as such.
  public var path: String? {
    segments.lazy.compactMap { if case .path(let path) = $0 { path } else { nil } }.first
  }

  /// The name of the tensor, module, key or the like that the sentence is about: the first it names as such.
  public var subject: String? {
    segments.lazy.compactMap { if case .subject(let name, _) = $0 { name } else { nil } }.first
  }

  /// What the sentence says of its path and its subject: the rest, where it begins with them.
  public var detail: MessageText {
    var rest = segments[...]
    if case .path? = rest.first { rest = Self.behind(rest) }
    if case .subject? = rest.first { rest = Self.behind(rest) }
    return MessageText(Array(rest))
  }

  /// What comes after the first piece, and after the colon or the space behind it.
  private static func behind(_ segments: ArraySlice<Segment>) -> ArraySlice<Segment> {
    var rest = segments.dropFirst()
    guard case .text(let text)? = rest.first else { return rest }
    let cut = String(text.drop { $0 == ":" }.drop { $0 == " " })
    if cut.isEmpty { rest.removeFirst() } else { rest[rest.startIndex] = .text(cut) }
    return rest
  }

  /// The same sentence about a file of another name.
  package func replacing(path old: String, with new: String) -> MessageText {
    MessageText(
      segments.map { segment in
        guard case .path(let path) = segment, path == old || path.hasPrefix(old + "/") else { return segment }
        return .path(new + path.dropFirst(old.count))
      })
  }

  /// The sentence with the names as they are.
  ///
  /// - Parameter setting: how an option and its value are written
  public func written(_ setting: (Setting, String?) -> String) -> String {
    var line = ""
    for segment in segments {
      switch segment {
      case .text(let text), .path(let text), .subject(_, let text): line += text
      case .setting(let option, let value): line += setting(option, value)
      }
    }
    return line
  }

  /// One line without control characters, whatever names it quotes, with options in the library's own words: `maxError 0.1`.
  public var description: String {
    oneLine(written { option, value in value.map { "\(option.name) \($0)" } ?? option.name })
  }

  /// Collects the pieces.
  public struct StringInterpolation: StringInterpolationProtocol {
    fileprivate var segments: [Segment] = []

    public init(literalCapacity: Int, interpolationCount: Int) { segments.reserveCapacity(2 * interpolationCount + 1) }

    public mutating func appendLiteral(_ text: String) { segments.append(piece: .text(text)) }

    /// Any value, as its text.
    public mutating func appendInterpolation<Value>(_ value: Value) { appendLiteral("\(value)") }
    /// Another sentence, with what it names.
    public mutating func appendInterpolation(_ text: MessageText) {
      for segment in text.segments { segments.append(piece: segment) }
    }
    /// The file or folder that the sentence is about.
    public mutating func appendInterpolation(path: String) { segments.append(.path(path)) }
    /// The thing that the sentence is about; its name is put in quotes.
    public mutating func appendInterpolation(subject name: String) {
      segments.append(.subject(name: name, written: quoted(name)))
    }
    /// `tensor 'name'`, which the sentence is about.
    public mutating func appendInterpolation(tensor name: String) {
      segments.append(.subject(name: name, written: "tensor " + quoted(name)))
    }
    /// `module 'name'`, which the sentence is about.
    public mutating func appendInterpolation(module name: String) {
      segments.append(.subject(name: name, written: "module " + quoted(name)))
    }
    /// A key of a configuration, which the sentence is about; it is not put in quotes.
    public mutating func appendInterpolation(key name: String) { segments.append(.subject(name: name, written: name)) }
    /// `layer 3`, which the sentence is about.
    public mutating func appendInterpolation(layer index: Int) {
      segments.append(.subject(name: "layer \(index)", written: "layer \(index)"))
    }
    /// An option.
    public mutating func appendInterpolation(_ setting: Setting) { segments.append(.setting(setting, value: nil)) }
    /// An option and its value; `false` turns a switch off.
    public mutating func appendInterpolation<Value>(_ setting: Setting, _ value: Value) {
      segments.append(.setting(setting, value: "\(value)"))
    }
  }
}

extension [MessageText.Segment] {
  /// Text that follows text becomes one piece, so that equal sentences have equal pieces.
  fileprivate mutating func append(piece: Element) {
    guard case .text(let text) = piece else { return append(piece) }
    if case .text(let before)? = last {
      self[count - 1] = .text(before + text)
    } else if !text.isEmpty {
      append(piece)
    }
  }
}

/// What errors and warnings have in common: a sentence, and the fields it is made of.
public protocol Notice: Sendable {
  /// The whole sentence.
  var text: MessageText { get }
}

extension Notice {
  /// The file or folder it is about, with a line's number where lines are read one by one.
  public var path: String? { text.path }
  /// The name of the tensor, module, key or the like it is about.
  public var subject: String? { text.subject }
  /// What it says of them.
  public var detail: MessageText { text.detail }
  /// One line without control characters, with options in the library's own words.
  public var message: String { text.description }
}

/// What the user should know of an output or an input that is used all the same.
public struct Warning: Notice, Hashable, CustomStringConvertible {
  /// What a warning is about.
  public enum Category: String, Sendable, CaseIterable {
    /// Values are rounded or a change is lost, more than was asked for.
    case precision
    /// Something that was given or found has no effect.
    case unused
    /// Files may not belong together: another base, another form of it.
    case identity
    /// Values are NaN or infinite.
    case nonfinite
    /// A file's metadata or index contradicts what is in it, or is dropped.
    case metadata
    /// What an earlier run left is not taken up as it is.
    case journal
    /// What other programs do with the output, or whether this one runs it.
    case compatibility
    /// What the data, not the model, makes of the result: rows that are cut, texts without tokens, patches that grow.
    case data
  }

  /// What it is about.
  public let category: Category
  public let text: MessageText

  /// A warning that says `text`.
  public init(_ category: Category, _ text: MessageText) {
    self.category = category
    self.text = text
  }

  public var description: String { message }

  /// Whether its path is `path`, or in that folder.
  package func isAbout(_ path: String) -> Bool {
    self.path.map { $0 == path || $0.hasPrefix(path.withoutTrailingSlashes + "/") } ?? false
  }
}

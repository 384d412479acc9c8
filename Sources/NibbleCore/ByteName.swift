/// A name compared byte by byte.
///
/// Swift's `String` treats canonically equivalent Unicode texts as equal, so two different tensor names
/// could be taken for one. Here equality, hashing and order are those of the UTF-8 bytes.
public struct ByteName: Hashable, Comparable, Sendable, CustomStringConvertible, ExpressibleByStringLiteral {
  /// The name as text, unchanged.
  public let text: String

  /// A name of these UTF-8 bytes.
  public init(_ text: String) { self.text = text }
  public init(stringLiteral text: String) { self.text = text }

  public var description: String { text }

  public static func == (a: ByteName, b: ByteName) -> Bool {
    a.text.utf8.elementsEqual(b.text.utf8)
  }

  public static func < (a: ByteName, b: ByteName) -> Bool {
    a.text.utf8.lexicographicallyPrecedes(b.text.utf8)
  }

  public func hash(into hasher: inout Hasher) {
    var text = self.text
    text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
  }
}

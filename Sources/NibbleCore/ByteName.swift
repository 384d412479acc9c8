import Glibc

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

  public static func == (a: ByteName, b: ByteName) -> Bool { a.difference(from: b) == 0 }
  public static func < (a: ByteName, b: ByteName) -> Bool { a.difference(from: b) < 0 }

  /// Below zero where this name comes first; a header of many tensors asks millions of times.
  private func difference(from other: ByteName) -> Int {
    var (a, b) = (text, other.text)
    return a.withUTF8 { a in
      b.withUTF8 { b in
        guard let first = a.baseAddress, let second = b.baseAddress else { return a.count - b.count }
        let found = memcmp(first, second, min(a.count, b.count))
        return found == 0 ? a.count - b.count : Int(found)
      }
    }
  }

  public func hash(into hasher: inout Hasher) {
    var text = self.text
    text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
  }
}

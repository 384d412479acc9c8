/// What an expression of a template gives: the types of Python that templates see.
///
/// Lists and dictionaries never change once made, as in Jinja's immutable sandbox; only namespaces do.
enum Value {
  case undefined(Undefined)
  case none
  case bool(Bool)
  case int(Int)
  case float(Double)
  case text(Text)
  case list(List)
  case tuple(List)
  case dict(Dict)
  /// Namespaces, macros, methods, iterators: what has a class of its own.
  case object(Object)
}

/// Elements of a list or tuple. A class, so that `is sameas` can tell two equal ones apart.
final class List {
  let items: [Value]
  /// Levels of values within values, which everything that recurses over them relies on.
  let depth: Int

  /// - Throws: a limit, for values nested too deep
  init(_ items: [Value]) throws {
    self.items = items
    depth = try Limits.depth(around: items)
  }

  private init() { (items, depth) = ([], 1) }
  static var empty: List { List() }
}

/// A dictionary in the order in which its keys came.
final class Dict {
  private(set) var keys: [Value] = []
  private(set) var values: [Value] = []
  private var places: [Key: Int] = [:]
  private(set) var depth = 1

  init() {}

  /// - Throws: keys that cannot be hashed, values nested too deep
  init(_ pairs: [(Value, Value)]) throws {
    for (key, value) in pairs { try set(key, value) }
  }

  var count: Int { keys.count }
  var pairs: [(key: Value, value: Value)] { zip(keys, values).map { ($0, $1) } }

  /// Only while a dictionary is made; a second value of a key takes the place of the first.
  func set(_ key: Value, _ value: Value) throws {
    let hashed = try Key(key)
    depth = max(depth, try Limits.depth(around: [key, value]))
    if let place = places[hashed] {
      values[place] = value
    } else {
      places[hashed] = keys.count
      keys.append(key)
      values.append(value)
    }
  }

  /// - Throws: a key that cannot be hashed
  func value(_ key: Value) throws -> Value? { places[try Key(key)].map { values[$0] } }
  subscript(name: Text) -> Value? { places[.text(name)].map { values[$0] } }
}

/// A value as a dictionary finds it: `1`, `1.0` and `True` are one key.
enum Key: Hashable {
  case none
  case int(Int)
  case float(Double)
  case text(Text)
  case tuple([Key])
  case other(ObjectIdentifier)
  case undefined

  /// - Throws: a type error for lists and dictionaries
  init(_ value: Value) throws {
    switch value {
    case .undefined: self = .undefined
    case .none: self = .none
    case .bool(let value): self = .int(value ? 1 : 0)
    case .int(let value): self = .int(value)
    case .float(let value): self = Int(exactly: value).map { .int($0) } ?? .float(value)
    case .text(let text): self = .text(text)
    case .tuple(let list): self = .tuple(try list.items.map { try Key($0) })
    case .object(let object): self = .other(ObjectIdentifier(object))
    case .list, .dict: throw TemplateError(.type, "unhashable type: '\(value.typeName)'")
    }
  }
}

/// Something that is not there. Asking for it is no error, using it is.
struct Undefined {
  /// What an error says about it.
  let reason: String
  /// Names the sandbox does not give out count as undefined too; their use has a reason of its own.
  init(_ reason: String) { self.reason = reason }
  init(name: String) { reason = "'\(name)' is undefined" }
  init(_ owner: Value, _ member: Value) {
    if case .text(let name) = member {
      reason = "'\(owner.ownerName)' has no attribute \(name.repr.string)"
    } else {
      reason = "\(owner.ownerName) has no element \(member.shortRepr)"
    }
  }

  var error: TemplateError { TemplateError(.undefined, reason) }
}

extension Value {
  static func string(_ string: String) -> Value { .text(Text(string)) }
  static func list(of items: [Value]) throws -> Value { .list(try List(items)) }
  static func tuple(of items: [Value]) throws -> Value { .tuple(try List(items)) }

  /// Python's name of the type.
  var typeName: String {
    switch self {
    case .undefined: "Undefined"
    case .none: "NoneType"
    case .bool: "bool"
    case .int: "int"
    case .float: "float"
    case .text: "str"
    case .list: "list"
    case .tuple: "tuple"
    case .dict: "dict"
    case .object(let object): object.typeName
    }
  }

  fileprivate var ownerName: String { if case .none = self { "None" } else { "\(typeName) object" } }

  fileprivate var shortRepr: String {
    switch self {
    case .int(let value): String(value)
    case .float(let value): value.pythonText
    case .bool(let value): value ? "True" : "False"
    case .none: "None"
    default: "of type \(typeName)"
    }
  }

  /// Levels of values within it.
  var depth: Int {
    switch self {
    case .list(let list), .tuple(let list): list.depth
    case .dict(let dict): dict.depth
    case .object(let object): object.depth
    default: 0
    }
  }

  /// Python's truth.
  var isTrue: Bool {
    switch self {
    case .undefined, .none: false
    case .bool(let value): value
    case .int(let value): value != 0
    case .float(let value): value != 0
    case .text(let text): !text.isEmpty
    case .list(let list), .tuple(let list): !list.items.isEmpty
    case .dict(let dict): dict.count > 0
    case .object(let object): object.isTrue
    }
  }

  var isUndefined: Bool { if case .undefined = self { true } else { false } }

  /// A whole number, for what Python calls an index: an int or a bool.
  var index: Int? {
    switch self {
    case .int(let value): value
    case .bool(let value): value ? 1 : 0
    default: nil
    }
  }

  /// A number as a float.
  var number: Double? {
    switch self {
    case .int(let value): Double(value)
    case .bool(let value): value ? 1 : 0
    case .float(let value): value
    default: nil
    }
  }

  var text: Text? { if case .text(let text) = self { text } else { nil } }
}

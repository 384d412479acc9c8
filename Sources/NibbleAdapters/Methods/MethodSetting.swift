import NibbleCore

/// A number that a method's configuration gives its modules beside rank and scale, such as the size of groups. `KEY_pattern`, an object
/// like `rank_pattern`, gives some modules others.
package struct MethodSetting: Sendable {
  package enum Kind: Sendable {
    case whole(ClosedRange<Double>), real(ClosedRange<Double>)
    /// Words that stand for 0, 1, and so on.
    case words([String])
    /// false and true, and words that stand for 2 and so on.
    case flag(or: [String])
    /// 1 for the modules that a list or a pattern names, 0 for others.
    case modules(Modules)
  }

  /// Modules that are named where nobody names any.
  package enum Modules: Sendable {
    /// The last layers of MLPs.
    case endOfMLP
  }

  /// In `adapter_config.json`.
  package let key: String
  /// Where the configuration does not say; nil if it has to.
  package let standard: Double?
  package let kind: Kind

  private init(_ key: String, _ standard: Double?, _ kind: Kind) { (self.key, self.standard, self.kind) = (key, standard, kind) }

  /// A whole number.
  package init(_ key: String, standard: Double? = nil, _ range: ClosedRange<Int>) {
    self.init(key, standard, .whole(Double(range.lowerBound)...Double(range.upperBound)))
  }
  /// Any number.
  package init(_ key: String, standard: Double? = nil, real range: ClosedRange<Double>) { self.init(key, standard, .real(range)) }
  /// One of some words.
  package init(_ key: String, standard: Double? = nil, words: [String]) { self.init(key, standard, .words(words)) }
  /// False or true, or one of some words.
  package init(_ key: String, flag: Bool, or words: [String] = []) { self.init(key, flag ? 1 : 0, .flag(or: words)) }
  /// Whether a module is among those named.
  package init(_ key: String, modules: Modules) { self.init(key, 0, .modules(modules)) }

  /// In a module's settings: its rank.
  package static let rank = "rank"

  /// The key of the object with other modules' numbers.
  package var patternKey: String { key + "_pattern" }

  /// Whether configurations that nibble writes leave out the number that is assumed: PEFT, which has no other, does not know the key.
  package var isImplied: Bool { if case .words = kind { true } else { false } }

  /// Whether it is a choice of modules.
  package var namesModules: Bool { if case .modules = kind { true } else { false } }

  /// What the configuration says; nil for what it cannot say.
  package func number(_ json: JSON) -> Double? {
    switch kind {
    case .words(let words): return json.string.flatMap(words.firstIndex).map(Double.init)
    case .flag(let words):
      if let flag = json.bool { return flag ? 1 : 0 }
      return json.string.flatMap(words.firstIndex).map { Double($0 + 2) }
    case .modules: return json.string != nil || json.array?.allSatisfy { $0.string != nil } == true ? 0 : nil
    case .whole(let range): return json.double.flatMap { range.contains($0) && $0 == $0.rounded() ? $0 : nil }
    case .real(let range): return json.double.flatMap { range.contains($0) ? $0 : nil }
    }
  }

  /// What is said on the command line; nil for what cannot be said.
  package func number(text: String) -> Double? {
    if case .modules = kind { return nil }
    if let number = number(JSON(text)) { return number }
    return (try? JSON.parse(Array(text.utf8))).flatMap { number($0) }
  }

  /// As the configuration has it.
  package func json(_ number: Double) -> JSON {
    switch kind {
    case .words(let words) where words.indices.contains(Int(number)): return JSON(words[Int(number)])
    case .flag(let words) where words.indices.contains(Int(number) - 2): return JSON(words[Int(number) - 2])
    case .flag: return .bool(number == 1)
    case .real where number != number.rounded(): return JSON(number)
    default: return JSON(Int(number))
    }
  }

  /// For messages: what is expected.
  package var expected: String {
    switch kind {
    case .words(let words): return words.joined(separator: " or ")
    case .flag(let words): return (["true", "false"] + words).joined(separator: " or ")
    case .modules: return "a pattern or a list of names"
    case .whole(let range): return "a whole number from \(Int(range.lowerBound)) to \(Int(range.upperBound))"
    case .real(let range): return "a number from \(range.lowerBound) to \(range.upperBound)"
    }
  }
}

/// The numbers of one module, by key.
package typealias MethodSettings = [String: Double]

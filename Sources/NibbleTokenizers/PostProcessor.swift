/// A text or two as a model reads them.
public struct Encoding: Sendable, Equatable {
  /// The tokens.
  public var ids: [Int] = []
  /// For each token the number of the part it belongs to: 0, or 1 for a second text.
  public var typeIDs: [Int] = []

  /// An encoding of these tokens.
  public init(ids: [Int] = [], typeIDs: [Int] = []) {
    self.ids = ids
    self.typeIDs = typeIDs
  }
}

/// Where special tokens stand around one text or two.
struct PostProcessor: Sendable {
  enum Part: Sendable, Equatable {
    case first(type: Int)
    case second(type: Int)
    case special([Int], type: Int)
  }

  var single: [Part] = [.first(type: 0)]
  var pair: [Part] = [.first(type: 0), .second(type: 1)]

  func apply<ID: BinaryInteger>(_ first: [ID], _ second: [ID]?, addsSpecial: Bool) -> Encoding {
    var encoding = Encoding()
    func add(_ ids: some Collection<Int>, _ type: Int) {
      encoding.ids.append(contentsOf: ids)
      encoding.typeIDs.append(contentsOf: repeatElement(type, count: ids.count))
    }
    for part in second == nil ? single : pair {
      switch part {
      case .first(let type): add(first.lazy.map { Int($0) }, type)
      case .second(let type): add((second ?? []).lazy.map { Int($0) }, type)
      case .special(let ids, let type): if addsSpecial { add(ids, type) }
      }
    }
    return encoding
  }
}

/// A run of words that is one entity.
public struct Entity: Hashable, Sendable {
  /// What stands behind the tag's first letter, such as `PER`; `_` where nothing does.
  public var type: String
  public var words: Range<Int>

  public init(_ type: String, _ words: Range<Int>) { (self.type, self.words) = (type, words) }
}

/// Classes of tokens whose names are tags of entities: `O`, and a letter for a place in an entity before its type, as in `B-PER`.
///
/// Letters are those of BIO (IOB1, IOB2), BIOES (IOBES) and BILOU. Entities are found as conlleval finds them, and seqeval where it is not strict: an entity
/// begins at a B or an S, after an O, an E or an S, and where the type changes; it ends before the next one's beginning, at an E or an S, and before an O.
/// So an I behind an O begins an entity. L is read as E, and U as S.
public struct EntityTags: Sendable {
  private enum Mark { case outside, begins, inside, ends, single }
  private let tags: [(mark: Mark, type: String)]
  /// In the order of their names.
  public let types: [String]

  /// - Parameter names: of the classes
  /// - Returns: nil unless all are tags, and one is no `O`
  public init?(_ names: [String]) {
    let marks: [Character: Mark] = ["O": .outside, "B": .begins, "I": .inside, "E": .ends, "L": .ends, "S": .single, "U": .single]
    let found = names.map { name -> (mark: Mark, type: String)? in
      guard let mark = name.first.flatMap({ marks[$0] }) else { return nil }
      let rest = name.dropFirst()
      guard rest.isEmpty || mark != .outside && rest.hasPrefix("-") else { return nil }
      return (mark, rest.count > 1 ? String(rest.dropFirst()) : "_")
    }
    tags = found.compactMap { $0 }
    guard tags.count == names.count, tags.contains(where: { $0.mark != .outside }) else { return nil }
    types = Set(tags.filter { $0.mark != .outside }.map(\.type)).sorted()
  }

  /// The entities of a text, from the class of each of its words.
  public func entities(_ classes: [Int]) -> [Entity] {
    var found: [Entity] = []
    var open: (type: String, start: Int)?
    var before = (mark: Mark.outside, type: "_")
    for (place, tag) in (classes.map { tags[$0] } + [(.outside, "_")]).enumerated() {
      let isOther = before.mark == .ends || before.mark == .single || before.type != tag.type
      if let one = open, isOther || tag.mark != .inside && tag.mark != .ends {
        found.append(Entity(one.type, one.start..<place))
        open = nil
      }
      if tag.mark != .outside, open == nil { open = (tag.type, place) }
      before = tag
    }
    return found
  }
}

/// Predicted entities against true ones: right where type, first and last word are.
public struct EntityScores: Sendable {
  /// Counts of one type of entity.
  public struct Counts: Sendable, Equatable {
    public var type: String
    public var right: Int
    public var predicted: Int
    public var actual: Int

    /// Shares of nothing are 0, as seqeval has them.
    public var precision: Double { predicted == 0 ? 0 : Double(right) / Double(predicted) }
    public var recall: Double { actual == 0 ? 0 : Double(right) / Double(actual) }
    public var f1: Double { predicted + actual == 0 ? 0 : 2 * Double(right) / Double(predicted + actual) }
  }

  public let types: [Counts]
  /// Over all types together, by the key each figure has in JSON. Texts are drawn again as wholes.
  public let scores: [(label: String, key: String, score: CorpusScore)]

  /// - Parameters:
  ///   - predicted: the classes of each text's words
  ///   - actual: the true ones
  public init(_ predicted: [[Int]], actual: [[Int]], _ tags: EntityTags) {
    let places = Dictionary(uniqueKeysWithValues: tags.types.enumerated().map { ($1, $0) })
    var sums = ItemSums(width: 3 * tags.types.count)
    for (predicted, actual) in zip(predicted, actual) {
      let (own, wanted) = (Set(tags.entities(predicted)), Set(tags.entities(actual)))
      var row = [Double](repeating: 0, count: 3 * tags.types.count)
      for entity in own { if let place = places[entity.type] { row[3 * place + 1] += 1 } }
      for entity in wanted { if let place = places[entity.type] { row[3 * place + 2] += 1 } }
      for entity in own.intersection(wanted) { if let place = places[entity.type] { row[3 * place] += 1 } }
      sums.add(row)
    }
    let total = sums.total
    types = tags.types.enumerated().map { place, type in
      Counts(type: type, right: Int(total[3 * place]), predicted: Int(total[3 * place + 1]), actual: Int(total[3 * place + 2]))
    }
    @Sendable func all(_ sums: [Double]) -> Counts {
      func sum(_ first: Int) -> Int { Int(stride(from: first, to: sums.count, by: 3).reduce(0) { $0 + sums[$1] }) }
      return Counts(type: "", right: sum(0), predicted: sum(1), actual: sum(2))
    }
    scores = [
      ("entity precision", "entity_precision", CorpusScore(items: nil, sums) { all($0).precision }),
      ("entity recall", "entity_recall", CorpusScore(items: nil, sums) { all($0).recall }),
      ("entity F1", "entity_f1", CorpusScore(items: nil, sums) { all($0).f1 }),
    ]
  }
}

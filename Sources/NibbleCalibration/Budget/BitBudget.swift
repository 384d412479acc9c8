import NibbleCore

/// Which codec each tensor gets where there is room for so many bytes: the choices that cost the least divergence in all, taken as the
/// sum of what each tensor costs by itself.
public struct BitBudget: Sendable {
  /// A way to code a tensor.
  public struct Choice: Sendable {
    /// The codec of a rule, such as `nf4:block=64`.
    public var codec: String
    /// What the tensor takes in a file.
    public var bytes: Int
    /// What it costs: KL(float ‖ packed) in nats a token, or for models without a vocabulary the squared error of the states over their
    /// squares.
    public var cost: Double

    /// The codec without its parameters.
    var kind: String { String(codec.prefix { $0 != ":" }) }

    public init(codec: String, bytes: Int, cost: Double) { (self.codec, self.bytes, self.cost) = (codec, bytes, cost) }
  }

  /// A tensor and its choices.
  public struct Tensor: Sendable {
    public var name: String
    public var elements: Int
    public var choices: [Choice]

    public init(name: String, elements: Int, choices: [Choice]) {
      (self.name, self.elements, self.choices) = (name, elements, choices)
    }
  }

  public let tensors: [Tensor]
  /// By tensor, the index of its choice.
  public let chosen: [Int]

  public var choices: [Choice] { zip(tensors, chosen).map { $0.choices[$1] } }
  public var bytes: Int { choices.reduce(0) { $0 + $1.bytes } }
  public var cost: Double { choices.reduce(0) { $0 + $1.cost } }
  /// Bits of an element, of all tensors together.
  public var bits: Double {
    let elements = tensors.reduce(0) { $0 + $1.elements }
    return elements > 0 ? 8 * Double(bytes) / Double(elements) : 0
  }

  /// Spends at most `bytes`.
  ///
  /// From the smallest choices on, the step that lowers the cost most for its bytes is taken as long as one fits. Steps run along the lower
  /// convex hull of each tensor's choices, so no better choice of the same size or less exists but for the last step that does not fit.
  ///
  /// - Parameter bond: what tells tensors that must have one codec; nil for a tensor that stands alone
  /// - Throws: `.usage` where the smallest choices are too large, or a tensor has none
  public init(_ tensors: [Tensor], bytes: Int, bond: (Tensor) -> String? = { _ in nil }) throws {
    self.tensors = tensors
    let bonds = tensors.enumerated().map { bond($1) ?? "\($0)" }
    let units = Dictionary(grouping: tensors.indices) { bonds[$0] }.values.sorted { ($0.first ?? 0) < ($1.first ?? 0) }
    let chosen = try Self.best(units.map { Self.together($0.map { tensors[$0] }) }, bytes: bytes)
    var places = [Int](repeating: 0, count: tensors.count)
    for (unit, choice) in zip(units, chosen) {
      for tensor in unit { places[tensor] = tensors[tensor].choices.firstIndex { $0.codec == choice.codec } ?? 0 }
    }
    self.chosen = places
  }

  /// Tensors as one: the choices that all of them have.
  private static func together(_ tensors: [Tensor]) -> Tensor {
    guard var all = tensors.first else { return Tensor(name: "", elements: 0, choices: []) }
    for other in tensors.dropFirst() {
      all.elements += other.elements
      all.choices = all.choices.compactMap { choice in
        other.choices.first { $0.codec == choice.codec }.map {
          Choice(codec: choice.codec, bytes: choice.bytes + $0.bytes, cost: choice.cost + $0.cost)
        }
      }
    }
    return all
  }

  /// The cheapest of what steps come to with all codecs, and with each left out: the step that does not fit may be a larger one with more to
  /// choose from.
  private static func best(_ tensors: [Tensor], bytes: Int) throws -> [Choice] {
    func cost(_ choices: [Choice]) -> Double { choices.reduce(0) { $0 + $1.cost } }
    var best = try chosen(tensors, bytes: bytes)
    for codec in Set(tensors.flatMap { $0.choices.map(\.kind) }).sorted() {
      let fewer = tensors.map { one in
        Tensor(name: one.name, elements: one.elements, choices: one.choices.filter { $0.kind != codec })
      }
      if let other = try? chosen(fewer, bytes: bytes), cost(other) < cost(best) { best = other }
    }
    return best
  }

  /// The choice of each of some tensors.
  private static func chosen(_ tensors: [Tensor], bytes: Int) throws -> [Choice] {
    if let bare = tensors.first(where: \.choices.isEmpty) { throw NibbleError.usage("\(subject: bare.name) has no codec to choose") }
    let hulls = tensors.map { hull($0.choices) }
    var places = [Int](repeating: 0, count: tensors.count)
    var left = zip(tensors, hulls).reduce(bytes) { left, one in left - (one.1.first.map { one.0.choices[$0].bytes } ?? 0) }
    guard left >= 0 else {
      throw NibbleError.usage("the packed tensors take \(byteText(bytes - left)) at least, and there is room for \(byteText(max(bytes, 0)))")
    }
    var steps: [(gain: Double, tensor: Int, place: Int, bytes: Int)] = []
    for (tensor, hull) in hulls.enumerated() {
      for place in hull.indices.dropFirst() {
        let (from, to) = (tensors[tensor].choices[hull[place - 1]], tensors[tensor].choices[hull[place]])
        steps.append(((from.cost - to.cost) / Double(to.bytes - from.bytes), tensor, place, to.bytes - from.bytes))
      }
    }
    // Steps of one tensor fall in gain, so they come in order.
    steps.sort { ($1.gain, $0.tensor, $0.place) < ($0.gain, $1.tensor, $1.place) }
    for step in steps where step.place == places[step.tensor] + 1 && step.bytes <= left {
      places[step.tensor] = step.place
      left -= step.bytes
    }
    return zip(tensors, zip(hulls, places)).map { $0.choices[$1.0[$1.1]] }
  }

  /// The choices on the lower convex hull of cost over bytes, smallest first, while the cost falls.
  static func hull(_ choices: [Choice]) -> [Int] {
    let sorted = choices.indices.sorted { (choices[$0].bytes, choices[$0].cost, $0) < (choices[$1].bytes, choices[$1].cost, $1) }
    var hull: [Int] = []
    for index in sorted {
      // NaN is no gain.
      if let last = hull.last {
        guard choices[index].bytes > choices[last].bytes, choices[index].cost < choices[last].cost else { continue }
      }
      while hull.count >= 2 {
        let (a, b, c) = (choices[hull[hull.count - 2]], choices[hull[hull.count - 1]], choices[index])
        let first = (a.cost - b.cost) / Double(b.bytes - a.bytes), second = (b.cost - c.cost) / Double(c.bytes - b.bytes)
        guard second > first else { break }
        hull.removeLast()
      }
      hull.append(index)
    }
    return hull
  }

  /// A rule a tensor, in the words of the command line.
  public var rules: [String] {
    zip(tensors, choices).map { "^" + $0.name.escapedForPatterns + "$=" + $1.codec }
  }
}

extension String {
  /// Finds itself as a pattern.
  fileprivate var escapedForPatterns: String {
    reduce(into: "") { text, character in
      if !character.isLetter, !character.isNumber, character != "_", character != "-" { text.append("\\") }
      text.append(character)
    }
  }
}

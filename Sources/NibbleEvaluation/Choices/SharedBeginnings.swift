/// Questions that begin alike, so that the beginning is computed once.
struct SharedBeginnings {
  /// Questions, and how many tokens all of them begin with.
  struct Group: Equatable {
    var members: [Int]
    var shared: Int
  }

  /// A shorter beginning is not worth a copy of its keys and values.
  private static let least = 16

  /// Groups of questions by the tokens they read, in an order in which like ones are beside each other.
  ///
  /// A group shares the beginning that all its members have, and leaves each at least one token of its own. It ends where the beginning would become
  /// much shorter, or where the next two questions share much more.
  static func groups(_ questions: [[Int]]) -> [Group] {
    let order = questions.indices.sorted { a, b in
      questions[a] == questions[b] ? a < b : questions[a].lexicographicallyPrecedes(questions[b])
    }
    let alike = zip(order, order.dropFirst()).map { common(questions[$0], questions[$1]) }
    var groups: [Group] = []
    for (place, question) in order.enumerated() {
      let next = place < alike.count ? alike[place] : 0
      guard place > 0, let last = groups.last, last.members.count > 1 || last.shared > 0 else {
        groups.append(Group(members: [question], shared: next))
        continue
      }
      let shared = min(last.shared, alike[place - 1], questions[question].count - 1)
      if shared >= least, 4 * shared >= 3 * last.shared, next <= 2 * shared + least {
        groups[groups.count - 1].members.append(question)
        groups[groups.count - 1].shared = shared
      } else {
        groups.append(Group(members: [question], shared: next))
      }
    }
    return groups.map { group in
      let most = (group.members.map { questions[$0].count }.min() ?? 1) - 1
      let shared = group.members.count > 1 ? min(group.shared, most) : 0
      return Group(members: group.members, shared: shared >= least ? shared : 0)
    }
  }

  /// How many tokens two texts begin with in common.
  static func common(_ a: [Int], _ b: [Int]) -> Int {
    var count = 0
    while count < a.count, count < b.count, a[count] == b[count] { count += 1 }
    return count
  }
}

/// Names for `target_modules`: PEFT's short ones, such as `q_proj`, where they find the same modules as whole paths do.
package enum ShortTargets {
  /// Names that heads in transformers give to layers of their own, which a checkpoint of the bare model does not show.
  private static let ofHeads: Set<Substring> = ["dense", "out_proj", "decoder", "classifier", "score", "lm_head"]

  /// - Parameters:
  ///   - adapted: paths of modules with factors
  ///   - modules: paths of all modules with parameters
  /// - Returns: for each adapted module the shortest end of its path that no other module's path has; the whole path where that end
  ///   would hold a layer's number
  package static func names(_ adapted: [String], among modules: some Sequence<String>) -> [String] {
    func ends(_ path: String) -> [Substring] {
      let parts = path.split(separator: ".")
      let fixed = parts.reversed().prefix { Int($0) == nil }.count
      return (1...max(fixed, 1)).prefix(parts.count).map { count in
        path[(parts.dropLast(count - 1).last ?? "").startIndex...]
      }
    }
    var everywhere: [Substring: Int] = [:], here: [Substring: Int] = [:]
    for path in withParents(modules).union(adapted) { for end in ends(path) { everywhere[end, default: 0] += 1 } }
    let adapted = Set(adapted)
    for path in adapted { for end in ends(path) { here[end, default: 0] += 1 } }
    return Set(
      adapted.map { path in
        ends(path).first { !ofHeads.contains($0) && everywhere[$0] == here[$0] }.map(String.init) ?? path
      }
    ).sorted()
  }

  /// Modules hold modules, which PEFT looks at as well.
  private static func withParents(_ paths: some Sequence<String>) -> Set<String> {
    var all: Set<String> = []
    for path in paths {
      var rest = path[...]
      while all.insert(String(rest)).inserted, let dot = rest.lastIndex(of: ".") { rest = rest[..<dot] }
    }
    return all
  }
}

import NibbleFormats

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

  /// The same for the modules of `base`; whole paths without one.
  static func names(_ adapted: [String], of base: Checkpoint?) -> [String] {
    guard let base else { return adapted.sorted() }
    let paths = Set(base.tensors.map { tensor in String(tensor.name.text[..<(tensor.name.text.lastIndex(of: ".") ?? tensor.name.text.endIndex)]) }).sorted()
    let known = ModuleNames(paths, of: base)
    let own = Dictionary(adapted.compactMap { path in known.index(of: path).map { ($0, path) } }) { first, _ in first }
    return names(adapted, among: paths.enumerated().map { own[$0] ?? $1 })
  }

  /// The names by which several adapters find their modules, put together.
  ///
  /// - Returns: nil where one finds them by anything but a list of names, or holds modules that no name finds
  static func union(of adapters: [AdapterFile]) -> [String]? {
    var names: Set<String> = []
    for config in adapters.map(\.config.json) {
      let isLimited = ["exclude_modules", "layers_to_transform"].contains { key in
        config[key].map { $0 != .null && $0 != .array([]) } ?? false
      }
      guard let list = config["target_modules"]?.array, !isLimited else { return nil }
      names.formUnion(list.compactMap(\.string))
    }
    let paths = adapters.flatMap { $0.modules.map(\.path) }
    return paths.allSatisfy { path in names.contains { path == $0 || path.hasSuffix("." + $0) } } ? names.sorted() : nil
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

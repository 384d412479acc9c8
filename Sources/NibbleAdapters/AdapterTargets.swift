import NibbleCore
import NibbleFormats

/// Which modules of a base an adapter's configuration names: `target_modules` without what `exclude_modules`,
/// `layers_to_transform` and `modules_to_save` take away.
struct AdapterTargets: Sendable {
  private enum Names {
    case list([String])
    case pattern(Pattern)

    /// A list's entry names a module of that path or one that ends with it; a text is a pattern for the whole path.
    func matches(_ path: String) throws -> Bool {
      switch self {
      case .list(let names): names.contains { path == $0 || path.hasSuffix("." + $0) }
      case .pattern(let pattern): try pattern.isFound(in: path)
      }
    }
  }

  private let targets: Names
  private let excluded: Names?
  private let layers: Set<Int>?
  private let layersPattern: [String]
  private let saved: [String]

  /// - Returns: nil where the configuration leaves the choice to a table of PEFT's
  init?(_ config: AdapterConfig, place: String) throws {
    func names(_ key: String) throws -> Names? {
      guard let value = config.json[key], value != .null else { return nil }
      if let list = value.array { return .list(list.compactMap(\.string)) }
      guard let text = value.string else { throw NibbleError.badInput("\(path: place): \(key) is neither a text nor a list") }
      guard text.lowercased() != "all-linear" else { return nil }
      do { return .pattern(try Pattern(ofFile: "^(?:\(text))$", lineAnchors: false)) } catch let error as NibbleError {
        throw NibbleError.badInput("\(path: place): \(key): \(error.text)")
      }
    }
    guard let targets = try names("target_modules") else { return nil }
    self.targets = targets
    excluded = try names("exclude_modules")
    saved = config.modulesToSave
    // An empty list is none.
    let layers = config.json["layers_to_transform"].flatMap { $0 == .array([]) ? nil : $0 }
    self.layers = layers.flatMap { $0.int.map { [$0] } ?? $0.array.map { Set($0.compactMap(\.int)) } }
    let pattern = config.json["layers_pattern"]
    layersPattern = pattern?.array?.compactMap(\.string) ?? pattern?.string.map { [$0] } ?? []
  }

  func contains(_ path: String) throws -> Bool {
    guard try targets.matches(path), try !(excluded?.matches(path) ?? false) else { return false }
    let parts = path.split(separator: ".").map(String.init)
    guard !saved.contains(where: parts.contains) else { return false }
    guard let layers, case .list = targets else { return true }
    // The first number behind a name, or behind one of the names given.
    let at = parts.indices.dropFirst().first {
      Int(parts[$0]) != nil && $0 + 1 < parts.count && (layersPattern.isEmpty || layersPattern.contains(parts[$0 - 1]))
    }
    return at.flatMap { Int(parts[$0]) }.map(layers.contains) ?? false
  }
}

extension AdapterFile {
  /// Things about its configuration worth telling.
  package var warnings: [Warning] {
    guard !config.unknownKeys.isEmpty else { return [] }
    let keys = config.unknownKeys.joined(separator: ", ")
    return [.init(.unused, "\(path: path + "/adapter_config.json"): \(key: keys): unknown, ignored")]
  }

  /// Where what the configuration names and what the file holds differ.
  ///
  /// - Throws: `.badInput` for patterns that are none or take too long
  package func targetWarnings(_ base: Checkpoint) throws -> [Warning] {
    let place = path + "/adapter_config.json"
    // PEFT adds both names of heads to every classifier's adapter, and a model has one of them.
    let strange = emptySavedModules.filter { !["classifier", "score"].contains($0) }
    var warnings = strange.map {
      Warning(.unused, "\(path: place): modules_to_save names \(subject: $0), which neither the base nor the adapter has")
    }
    guard let targets = try AdapterTargets(config, place: place) else { return warnings }
    let started = threadSeconds()
    func isTarget(_ path: String) throws -> Bool {
      guard threadSeconds() - started < 10 else {
        throw NibbleError.badInput("\(path: place): target_modules takes too long to match")
      }
      do { return try targets.contains(path) } catch let error as NibbleError {
        throw NibbleError.badInput("\(path: place): target_modules: \(error.text)")
      }
    }
    let strangers = try modules.filter { try !$0.isParameter && !isTarget($0.path) }
    if let first = strangers.first {
      warnings.append(
        .init(
          .compatibility,
          "\(path: path): \(strangers.count) of \(modules.count) adapted modules, \(subject: first.path) the first, are not among the "
            + "configuration's target_modules; PEFT would leave them out, nibble does not"))
    }
    // Paths as the adapter's own model has them: a target that only bears another prefix is not missing.
    let paths = base.modulePaths
    let names = ModuleNames(paths, of: base)
    let held = Set(modules.compactMap { names.index(of: $0.path) })
    let missing = try paths.indices.filter { try !held.contains($0) && isTarget(paths[$0]) }
    if let first = missing.first, !held.isEmpty {
      warnings.append(
        .init(
          .unused,
          "\(path: path): target_modules names \(missing.count) modules of the base, \(subject: paths[first]) the first, that the adapter "
            + "holds nothing for; it adapts \(held.count)"))
    }
    return warnings
  }
}

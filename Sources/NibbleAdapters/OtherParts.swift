import NibbleCore
import NibbleFormats

extension AdapterFile {
  /// Paths of modules and names of parameters that it changes outside the text model of `base`, where that takes pictures as well.
  package func changesOfOtherParts(of base: Checkpoint) -> [String] {
    guard let part = base.family?.part else { return [] }
    return (modules.map(\.path) + tokenRows.map(\.path) + replacements.map(\.name)).filter(part.isOther)
  }

  /// The same without these: texts do not pass through what they change.
  ///
  /// - Throws: `.adapterMismatch` where nothing else is left, and where numbers that modules share depend on all of them
  package func ofTexts(on base: Checkpoint) throws -> AdapterFile {
    let others = Set(changesOfOtherParts(of: base))
    guard let first = others.min() else { return self }
    if let part = config.method.parts.first(where: { part in part.sharing != nil && modules.contains { $0.parts[part.name] == nil } }) {
      throw mismatch(
        first, "is of a part that takes pictures, and \(part.name), which the file does not hold, is drawn for the sizes of all modules; such an adapter is merged")
    }
    var file = self
    file.modules.removeAll { others.contains($0.path) }
    file.tokenRows.removeAll { others.contains($0.path) }
    file.replacements.removeAll { others.contains($0.name) }
    guard !file.modules.isEmpty || !file.tokenRows.isEmpty || !file.replacements.isEmpty else {
      throw mismatch(first, "is of a part that takes pictures, like all that it changes: texts do not pass through it")
    }
    return file
  }
}

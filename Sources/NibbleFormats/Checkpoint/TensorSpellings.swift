import NibbleCore

/// Names that a file may have for what its model calls a tensor, or a layer: with the model's prefix or without, as modules are called or as
/// files spell them.
package struct TensorSpellings: Sendable {
  private let family: ModelFamily?
  private let prefix: String

  package init(of checkpoint: Checkpoint) {
    let family = checkpoint.family
    self.family = family
    prefix = checkpoint.modelType.flatMap { family?.prefix($0) } ?? ""
  }

  /// The model's own name comes first. Files from before PyTorch's layer norm say gamma and beta.
  package func all(_ name: String) -> [String] {
    var names = [name]
    func add(_ one: String) { if !names.contains(one) { names.append(one) } }
    if name.hasPrefix(prefix) { add(String(name.dropFirst(prefix.count))) }
    for one in names { if let family { add(family.inFiles(one)) } }
    return [("weight", "gamma"), ("bias", "beta")].reduce(names) { names, spelling in
      guard name.hasSuffix("LayerNorm." + spelling.0) else { return names }
      return names + names.map { $0.dropLast(spelling.0.count) + spelling.1 }
    }
  }

  /// What `places` has under one of them.
  package func find<Place>(_ name: String, in places: [String: Place]) -> Place? { all(name).lazy.compactMap { places[$0] }.first }
}

extension Checkpoint {
  /// A module as the file spells it, and as it is called where that differs: of the programs that read lists of modules, some compare with the one and
  /// some with the other.
  func moduleSpellings(_ file: String) -> [String] {
    let module = family?.inModules(file) ?? file
    return module == file ? [file] : [file, module]
  }

  /// The tensor that the model calls `name`.
  package func tensor(called name: String) -> StoredTensor? {
    TensorSpellings(of: self).all(name).lazy.compactMap { tensor(ByteName($0)) }.first
  }
}

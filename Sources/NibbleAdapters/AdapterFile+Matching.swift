import NibbleCore
import NibbleFormats
import NibbleQuant

extension AdapterFile {
  /// Throws unless every module and every parameter of the adapter is one of the base's, and no two are the same one.
  ///
  /// - Parameters:
  ///   - modules: what can be adapted there
  ///   - parameters: what can be replaced there
  ///   - base: its path, for messages
  package func checkEverythingMatches(_ modules: ModuleNames, _ parameters: ModuleNames, of base: String) throws {
    var seen: Set<Int> = []
    for module in self.modules {
      if let index = modules.index(of: module.path), !seen.insert(index).inserted {
        throw mismatch(module.path, "is adapted twice under different names")
      }
    }
    let lostModules = (self.modules.map(\.path) + tokenRows.map(\.path)).filter { modules.index(of: $0) == nil }
    let lostParameters = replacements.map(\.name).filter { parameters.index(of: $0) == nil }
    let lost = lostModules.map { ($0, modules) } + lostParameters.map { ($0, parameters) }
    guard !lost.isEmpty else { return }
    let named = lost.prefix(3).map { name, known in
      quoted(name) + (known.nearest(to: name).map { " (nearest: \(quoted($0)))" } ?? "")
    }
    let others = lost.count > 3 ? " and \(lost.count - 3) more" : ""
    throw NibbleError(
      .adapterMismatch,
      "\(path: path): \(lost.count) of its \(self.modules.count + tokenRows.count + replacements.count) modules and parameters match nothing in \(base): "
        + "\(named.joined(separator: ", "))\(others)")
  }

  /// Throws for a module trained whole that the base has and the adapter holds nothing of.
  ///
  /// - Parameter parameters: of the base
  package func checkSavedModules(_ parameters: [String], of base: String) throws {
    for name in emptySavedModules where parameters.contains(where: { Self.isIn($0, name) }) {
      throw NibbleError(
        .adapterMismatch,
        "\(path: path): modules_to_save names \(subject: name), which \(base) has, and the file holds no tensor for it")
    }
  }

  /// Names in `modules_to_save` that no tensor of the file belongs to.
  var emptySavedModules: [String] {
    config.modulesToSave.filter { name in !replacements.contains { Self.isIn($0.name, name) } }
  }

  /// Whether a parameter belongs to a module of that name, or to one whose path ends with it.
  package static func isIn(_ parameter: String, _ module: String) -> Bool {
    ("." + parameter).contains("." + module + ".")
  }

  /// What is wrong with a module.
  package func mismatch(_ module: String, _ reason: MessageText) -> NibbleError {
    NibbleError(.adapterMismatch, "\(path: path): \(module: module) \(reason)")
  }

  /// Adapters are small and come from anywhere: a look at every number costs little and names the tensor that is broken.
  package func checkFinite(_ tensor: StoredTensor) throws {
    guard let section = tensor.section(.data), let start = try mapped.bytes(section, tensor.name.text).baseAddress else {
      return
    }
    let broken = Kernels.countNonfinite(tensor.dtype, start, count: tensor.count)
    guard broken == 0 else {
      throw NibbleError.quality(
        "\(path: path): \(tensor: tensor.name.text) holds \(broken) NaN or infinite value\(broken == 1 ? "" : "s")")
    }
  }
}

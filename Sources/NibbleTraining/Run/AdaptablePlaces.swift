import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleModels

/// What factors can be made for: a linear layer, a convolution, or an embedding, taken for a layer whose inputs are its rows.
struct AdaptablePlace {
  /// The module's path.
  let name: String
  let id: ParameterID
  /// [outputs, inputs]
  let matrix: Matrix
  let kind: ModuleShape.Kind
  /// What an input of it is like: [inputs], of a convolution [channels, height, width].
  let input: [Int]

  init(_ layer: Linear) {
    (name, id, matrix) = (layer.name, layer.id, layer.matrix)
    (kind, input) = (layer.window == nil ? .linear : .convolution, layer.window ?? [layer.inputs])
  }

  init(_ table: Embedding) {
    (name, id, matrix, kind, input) = (table.name, table.id, table.matrix.turned, .embedding, [table.count])
  }

  var inputs: Int { matrix.inputs }
  var outputs: Int { matrix.outputs }
}

extension AdapterOptions {
  /// The places that the options name: layers first, then a head for tokens, or one of classes of images, and embeddings. These, and convolutions,
  /// are adapted where they are named.
  ///
  /// - Throws: `.usage` for names of nothing that the method adapts
  func places(_ method: any AdapterMethod.Type, on model: Model) throws -> [AdaptablePlace] {
    try withoutExcluded(named(method, on: model))
  }

  /// The paths of places that the options name and exclude.
  func excludedPaths(_ method: any AdapterMethod.Type, on model: Model) -> [String] {
    guard let choice = excluded.flatMap({ try? ModuleChoice($0) }), let all = try? named(method, on: model) else { return [] }
    return all.map(\.name).filter { (try? choice.contains($0)) ?? false }
  }

  private func named(_ method: any AdapterMethod.Type, on model: Model) throws -> [AdaptablePlace] {
    let parts = model.network.parts, targets = try Targets(targets, of: parts, model.checkpoint.family)
    let takesWindows = targets.isNamed && method.adaptsConvolutions
    if targets.isNamed, !takesWindows, let one = try parts.layers.first(where: { try $0.window != nil && targets.contains($0.name) }) {
      throw NibbleError.usage("\(.targetModules): \(quoted(one.name)) is a convolution, which \(method.name) does not adapt")
    }
    var all = parts.layers.filter { $0.window == nil || takesWindows }.map { AdaptablePlace($0) }
    // The layer before the scores of masked tokens is one of all; where it stands for the output embedding, PEFT leaves it out.
    if case .masked(let head) = model.head, let transform = head.transform, head.isModule || targets.isNamed { all.append(AdaptablePlace(transform.dense)) }
    if targets.isNamed {
      if let head = model.vocabularyLayer { all.append(AdaptablePlace(head)) }
      // PEFT trains the head of a text classifier whole. It has no task for images, and adapts what is named.
      if case .classification = model.head, model.takesImages { all += model.head.layers.map { AdaptablePlace($0) } }
      if method.looksUp { all += parts.embeddings.map { AdaptablePlace($0) } }
    }
    let known = all.map(\.name) + model.linears.map(\.name) + modulesToSave
    if let stray = targets.names.first(where: { name in !known.contains { targets.is($0, name) } }) {
      throw NibbleError.usage(
        "\(.targetModules): \(subject: stray) is no \(method.looksUp ? "linear layer or embedding" : "linear layer") of \(path: model.path)")
    }
    if all.isEmpty, rank > 0, let one = parts.layers.first(where: { $0.window != nil }) {
      throw NibbleError.usage(
        "\(.targetModules, quoted(self.targets)): \(path: model.path) has convolutions only, which are adapted where they are named, such as \(quoted(one.name))")
    }
    let named = try all.filter { try targets.contains($0.name) }
    guard !named.isEmpty || rank == 0 else {
      throw NibbleError.usage(
        "\(.targetModules, quoted(self.targets)) matches none of the \(all.count) modules of \(path: model.path), "
          + "such as \(quoted(all.first?.name ?? ""))")
    }
    return named
  }

  /// - Throws: `.usage` where a name excludes nothing, and where nothing is left
  private func withoutExcluded(_ named: [AdaptablePlace]) throws -> [AdaptablePlace] {
    guard let excluded else { return named }
    let choice = try ModuleChoice(excluded)
    let left = try named.filter { try !choice.contains($0.name) }
    let idle = choice.names.first { name in !named.contains { ModuleChoice.is($0.name, name) } }
    guard idle == nil, left.count < named.count else {
      throw NibbleError.usage("\(.excludeModules): \(quoted(idle ?? excluded)) is none of the modules that \(.targetModules) names")
    }
    guard !left.isEmpty else { throw NibbleError.usage("\(.excludeModules, quoted(excluded)) leaves no module to adapt") }
    return left
  }
}

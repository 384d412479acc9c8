import NibbleAdapters
import NibbleModels

/// Factors of the experts of a layer as PEFT has them where files stack experts: of the parameter they are stacked into
/// (`target_parameters`), A [experts · rank, inputs], B [outputs, rank · experts]. Their router's are of its weight, which is a parameter, too.
struct StackedFactors {
  /// The parameter's path in the model.
  let parameter: String
  let rank: Int
  let scale: Double
  /// The layers whose factors they are.
  let layers: Set<ParameterID>
  let tensors: [AdapterFolder.Tensor]
}

extension Trained {
  /// Those of a model whose files stack experts, in the order of its layers; none where it does not, or no expert is adapted.
  ///
  /// - Returns: nil where experts of a layer do not all have plain factors of one rank and scale, which no stack holds
  func stackedFactors(of model: Model) -> [StackedFactors]? {
    guard let layers = (model.network as? Transformer)?.weights.layers else { return [] }
    var found: [StackedFactors] = []
    for experts in layers.compactMap(\.experts) where experts.areStacked {
      var stacks: [(leaf: String, linears: [Linear], modules: [TrainedModule])] = []
      for linears in [experts.all.flatMap(\.up), experts.all.map(\.down)] {
        let own = linears.compactMap { modules[$0.id] }
        guard !own.isEmpty else { continue }
        guard own.count == experts.all.count, own.allSatisfy({ $0.isPlainLoRA && $0.rank == own[0].rank && $0.scale == own[0].scale }),
          let leaf = linears[0].name.split(separator: ".").last
        else { return nil }
        stacks.append((String(leaf), linears, own))
      }
      if let router = modules[experts.router.id] {
        guard router.isPlainLoRA else { return nil }
        let path = model.path(ofModule: experts.router.name)
        found.append(
          StackedFactors(
            parameter: path + ".weight", rank: router.rank, scale: router.scale, layers: [experts.router.id],
            tensors: router.tensors.map { AdapterFolder.Tensor($0.name, $0.shape, Array($0.values.values)) }))
      }
      for (index, stack) in stacks.enumerated() {
        let block = model.path(ofModule: String(stack.linears[0].name.dropLast(stack.leaf.count + ".0.".count)))
        // Of two parameters of a module, PEFT wraps the first first.
        let path = AdapterFile.prefix + block + (index + 1 < stacks.count ? ".base_layer." : ".")
        found.append(
          StackedFactors(
            parameter: block + "." + stack.leaf, rank: stack.modules[0].rank, scale: stack.modules[0].scale, layers: Set(stack.linears.map(\.id)),
            tensors: Self.stacked(stack.modules, path, turned: model.checkpoint.family?.turnsExpertFactors == true)))
      }
    }
    return found
  }

  /// Biases of experts whose files stack them, trained in place: as PEFT calls them, and what they are made of.
  ///
  /// - Parameter stacks: the factors beside them, which PEFT wraps their module in
  func stackedBiases(of model: Model, beside stacks: [StackedFactors]) -> (parts: [TrainedTensor], tensors: [AdapterFolder.Tensor]) {
    var (parts, tensors): ([TrainedTensor], [AdapterFolder.Tensor]) = ([], [])
    for experts in ((model.network as? Transformer)?.weights.layers ?? []).compactMap(\.experts) where experts.areStacked {
      for linears in [experts.all.flatMap(\.up), experts.all.map(\.down)] {
        let own = linears.compactMap { $0.bias.flatMap { vectors[$0.id] } }
        guard own.count == linears.count, let count = own.first?.values.count, let leaf = linears[0].name.split(separator: ".").last else { continue }
        let block = model.path(ofModule: String(linears[0].name.dropLast(leaf.count + ".0.".count)))
        let wrappers = stacks.count { $0.parameter.hasPrefix(block + ".") }
        let path = AdapterFile.prefix + block + String(repeating: ".base_layer", count: wrappers)
        parts += own
        tensors.append(AdapterFolder.Tensor("\(path).\(leaf)_bias", [own.count, count], own.flatMap { Array($0.values.values) }))
      }
    }
    return (parts, tensors)
  }

  /// - Parameter turned: whether they are to be those of the matrices turned
  private static func stacked(_ modules: [TrainedModule], _ path: String, turned: Bool) -> [AdapterFolder.Tensor] {
    let first = modules.compactMap { $0.parts[LoRA.first] }, second = modules.compactMap { $0.parts[LoRA.second] }
    guard first.count == modules.count, second.count == modules.count, first[0].shape.count == 2, second[0].shape.count == 2 else { return [] }
    let (rank, count) = (first[0].shape[0], modules.count)
    var (inputs, outputs) = (first[0].shape[1], second[0].shape[0])
    func values(_ factor: TrainedTensor) -> [Float] { Array(factor.values.values) }
    func turn(_ values: [Float], _ rows: Int) -> [Float] {
      let columns = values.count / rows
      return (0..<values.count).map { values[$0 % rows * columns + $0 / rows] }
    }
    let pairs = zip(first, second).map { a, b in turned ? (turn(values(b), outputs), turn(values(a), rank)) : (values(a), values(b)) }
    if turned { (inputs, outputs) = (outputs, inputs) }
    var b = [Float](repeating: 0, count: outputs * rank * count)
    for (expert, pair) in pairs.enumerated() {
      for place in 0..<outputs * rank { b[place * count + expert] = pair.1[place] }
    }
    return [
      AdapterFolder.Tensor("\(path)\(LoRA.first).weight", [count * rank, inputs], pairs.flatMap(\.0)),
      AdapterFolder.Tensor("\(path)\(LoRA.second).weight", [outputs, rank * count], b),
    ]
  }
}

extension TrainedModule {
  fileprivate var isPlainLoRA: Bool { method == LoRA.self && Set(parts.keys) == [LoRA.first, LoRA.second] }
}

extension Model {
  /// The layers that are parameters to PEFT: those that files hold in stacks of experts, and their routers.
  var stackedLayers: Set<ParameterID> {
    let experts = ((network as? Transformer)?.weights.layers ?? []).compactMap(\.experts)
    return Set(experts.filter(\.areStacked).flatMap(\.linears).map(\.id))
  }
}

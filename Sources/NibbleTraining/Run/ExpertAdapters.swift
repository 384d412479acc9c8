import NibbleAdapters
import NibbleModels

extension Trained {
  /// The first module of a new adapter that PEFT does not read where transformers stacks experts; nil where it reads all.
  ///
  /// PEFT puts plain LoRA factors of each expert into factors of the stack. Gate and up are in one, of twice the rank, so it wants both or
  /// neither, and a scale of alpha / rank; and it takes the names of an expert's projections for experts' in every layer, also where there
  /// is a plain MLP, or an expert that every token takes.
  ///
  /// - Parameter isStabilized: whether the scale is alpha / √rank
  package func unreadExpert(of model: Model, isStabilized: Bool) -> String? {
    guard let layers = (model.network as? Transformer)?.weights.layers, layers.contains(where: { $0.experts != nil }) else { return nil }
    if layers.contains(where: { $0.experts?.areStacked == true }) {
      // PEFT adapts the router's weight as a parameter, and not that of a router that is a linear layer to it.
      if model.checkpoint.family?.turnsExpertFactors == true, let router = layers.lazy.compactMap(\.experts?.router).first(where: { modules[$0.id] != nil }) {
        return router.name
      }
      // A stack has its own scale, whichever that is.
      guard stackedFactors(of: model) == nil else { return nil }
      return layers.lazy.compactMap(\.experts).flatMap(\.linears).first { modules[$0.id] != nil }?.name
    }
    guard model.checkpoint.family?.joinsExperts != false else {
      return layers.lazy.compactMap(\.experts).flatMap(\.routed).first { modules[$0.id] != nil }?.name
    }
    func adapted(_ linears: [Linear]) -> [Linear] { linears.filter { modules[$0.id] != nil } }
    for layer in layers {
      guard let experts = layer.experts else {
        if let one = adapted(layer.mlp).first { return one.name }
        continue
      }
      if let shared = experts.shared, let one = adapted(shared.expert.linears).first { return one.name }
      if let odd = adapted(experts.routed).first(where: { layer in
        isStabilized && layer.id != experts.router.id || modules[layer.id].map { Set($0.parts.keys) } != [LoRA.first, LoRA.second]
      }) {
        return odd.name
      }
      let halves = experts.all.lazy.map { adapted($0.up) }.first { !$0.isEmpty && $0.count < experts.all[0].up.count }
      if let one = halves?.first { return one.name }
    }
    return nil
  }
}

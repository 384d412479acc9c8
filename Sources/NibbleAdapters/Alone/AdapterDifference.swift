import NibbleCore
import NibbleFormats

/// How far the changes that two adapters make to a base are apart.
public struct AdapterDifference: Sendable {
  /// A module that both adapt.
  public struct Module: Sendable {
    /// Its path in the base.
    public let path: String
    /// ‖scale · B · A‖ of the first adapter; of DoRA without the scaling of rows.
    public let normA: Double
    /// The same of the second.
    public let normB: Double
    /// ‖Δb − Δa‖ / ‖Δa‖; the length of Δb − Δa where Δa is zero.
    public let distance: Double
  }

  /// Modules of both whose changes differ, in the order of their paths.
  public private(set) var modules: [Module] = []
  /// Tensors that are factors of modules that both adapt.
  public private(set) var factorNames: [String] = []

  /// - Throws: `.badInput`, `.quality` for factors that are not finite
  public init(_ a: AdapterFile, _ b: AdapterFile) throws {
    let others = Dictionary(b.modules.map { (ByteName($0.path), $0) }) { first, _ in first }
    for module in a.modules {
      guard let twin = others[ByteName(module.path)], twin.inputs == module.inputs, twin.outputs == module.outputs,
        twin.isEmbedding == module.isEmbedding, twin.isConvolution == module.isConvolution
      else { continue }
      try Interrupt.check()
      factorNames += [module.a.name.text, module.b.name.text]
      let (first, second) = (try FactoredModule(module, of: a).factors, try FactoredModule(twin, of: b).factors)
      let distance = first.distance(to: second)
      guard distance != 0 else { continue }
      modules.append(
        Module(
          path: module.path, normA: Merging.squaredNorm([first]).squareRoot(), normB: Merging.squaredNorm([second]).squareRoot(),
          distance: distance))
    }
  }
}

import NibbleCore
import NibbleFormats

/// How far the changes that two adapters make to a base are apart.
public struct AdapterDifference: Sendable {
  /// A module that both adapt.
  public struct Module: Sendable {
    /// Its path in the base.
    public let path: String
    /// ‖scale · B · A‖ of the first adapter; without the scaling of outputs, if the method has one.
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
      guard let twin = others[ByteName(module.path)], module.rank > 0, twin.rank > 0, twin.shape.input == module.shape.input,
        twin.shape.outputs == module.shape.outputs, twin.shape.kind == module.shape.kind
      else { continue }
      try Interrupt.check()
      factorNames += module.method.parts.filter(\.isFactor).compactMap { module.parts[$0.name]?.name.text }
      let (first, second) = (try a.factors(of: module), try b.factors(of: twin))
      let distance = first.distance(to: second)
      guard distance != 0 else { continue }
      modules.append(
        Module(
          path: module.path, normA: LowRankFactors.squaredNorm([first]).squareRoot(),
          normB: LowRankFactors.squaredNorm([second]).squareRoot(),
          distance: distance))
    }
  }
}

import NibbleAdapters
import NibbleCompute
import NibbleCore

/// Adapters on one open base, by name. Attaching maps an adapter's tensors and copies nothing of the base; which of them are
/// in use is said with each pass, so switching costs nothing.
public final class AdapterSet {
  private let model: Model
  private var attached: [(name: String, adapter: AttachedAdapter)] = []

  /// No adapters yet.
  public init(_ model: Model) { self.model = model }

  /// In the order they were attached.
  public var names: [String] { attached.map(\.name) }

  /// Fits the adapter in folder `path` to the base and keeps it as `name`.
  ///
  /// - Returns: warnings about what of it has no effect or is not known
  /// - Throws: `.usage` if the name is taken, `.badInput`, `.adapterMismatch`; nothing has changed then
  @discardableResult
  public func attach(_ path: String, as name: String) throws -> [Warning] {
    guard !attached.contains(where: { $0.name == name }) else {
      throw NibbleError.usage("two adapters are called \(subject: name)")
    }
    let file = try AdapterFile.open(path)
    let adapter = try model.attach(file, name: name)
    attached.append((name, adapter))
    var warnings = try file.warnings + file.targetWarnings(model.checkpoint)
    // Only where the base says its identity: hashing it would take longer than opening.
    if model.checkpoint.claimedIdentity != nil { warnings += try BaseMatch(model.checkpoint, [file], anyBase: true).warnings }
    let idle = model.idleModules(of: adapter)
    if !idle.isEmpty {
      warnings.append(.init(.unused, "\(path: path): adapts \(idle.joined(separator: ", ")), which no result depends on"))
    }
    let others = file.changesOfOtherParts(of: model.checkpoint)
    if let first = others.first {
      warnings.append(
        .init(
          .unused,
          "\(path: path): adapts \(others.count) module\(others.count == 1 ? "" : "s") and parameters of parts that take pictures, \(subject: first) the first, "
            + "which texts do not pass through"))
    }
    return warnings
  }

  /// Lets go of adapter `name`.
  public func detach(_ name: String) throws {
    guard let index = attached.firstIndex(where: { $0.name == name }) else { throw unknown(name) }
    attached.remove(at: index)
  }

  private func unknown(_ name: String) -> NibbleError {
    NibbleError.usage(
      "no adapter is called \(subject: name); \(names.isEmpty ? "none is attached" : "there are " + names.joined(separator: ", "))"
    )
  }

  /// The adapters a pass is to use.
  ///
  /// - Throws: `.usage` for unknown names, and for two that hold the same parameter whole: one would hide the other's
  public func selection(_ uses: [(name: String, weight: Float)]) throws -> [ActiveAdapter] {
    let chosen = try uses.map { use in
      guard let found = attached.first(where: { $0.name == use.name }) else { throw unknown(use.name) }
      return ActiveAdapter(found.adapter, weight: use.weight)
    }
    var owners: [ParameterID: String] = [:]
    for active in chosen {
      for id in Set(active.adapter.vectors.keys).union(active.adapter.matrices.keys).union(active.adapter.rows.keys) {
        if let other = owners.updateValue(active.adapter.name, forKey: id) {
          throw NibbleError.usage(
            "adapters \(subject: other) and \(quoted(active.adapter.name)) both replace \(quoted(model.parameterNames[id])); use one of them"
          )
        }
      }
      if chosen.count > 1, let method = active.adapter.scalingMethod {
        let what: MessageText = method.scalesOutputs ? "scales outputs" : "changes inputs"
        throw NibbleError.usage(
          "\(subject: active.adapter.name) is a \(method.name) adapter, which \(what) and cannot be combined with others")
      }
      if active.weight != 1, active.adapter.isScaledWhole {
        throw NibbleError.usage(
          "\(subject: active.adapter.name) replaces parameters, scales outputs or changes inputs, and can only be used with weight 1")
      }
    }
    return chosen
  }
}

extension AttachedAdapter {
  /// Whether a weight other than 1 would mean nothing for part of it.
  var isScaledWhole: Bool {
    !vectors.isEmpty || !matrices.isEmpty || !rows.isEmpty || scalingMethod != nil
  }

  /// The first method that does more than add to its layers' products.
  var scalingMethod: (any AdapterMethod.Type)? { (Array(methods.values) + tables.values).lazy.map { type(of: $0) }.first { !$0.isSum } }
}

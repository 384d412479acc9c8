import Glibc
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

/// What an adapter holds, in numbers.
public struct AdapterInspection: Sendable {
  /// One adapted module.
  public struct Module: Sendable {
    /// Its path in the base.
    public let path: String
    public let inputs: Int
    public let outputs: Int
    public let rank: Int
    /// How many singular values of the change count: exp of the entropy of their shares.
    public let effectiveRank: Double
    public let alpha: Double
    /// What the product of the factors is multiplied with.
    public let scale: Double
    /// ‖scale · B · A‖; without the scaling of outputs, if the method has one.
    public let norm: Double
    /// What packing the sum of weight and change to 4 bits makes of the change: what a merge into a plain base that writes packed
    /// tensors does. nil without a plain base.
    public var packedAnew: ChangeSums?
    /// What rounding the change into codes that are there makes of it: what a merge into the packed base does. nil without a base,
    /// and where the base keeps the weight in 16 bits.
    public var intoCodes: ChangeSums?
    /// Either, where a base was given.
    public var rounding: ChangeSums? { packedAnew ?? intoCodes }
    /// Whether it changes nothing.
    public var isDead: Bool { norm == 0 && rounding?.isDead ?? true }
  }

  /// Modules of one name in the base, and how many of them the adapter has.
  public struct Coverage: Sendable {
    /// The last part of their paths.
    public let name: String
    public let adapted: Int
    public let count: Int
  }

  public var modules: [Module] = []
  /// Parameters trained whole, and what methods without factors have, with their shapes.
  public var replaced: [(name: String, shape: [Int])] = []
  /// Of the base's matrices, in the order of their first appearance; empty without a base.
  public var coverage: [Coverage] = []
  /// Numbers the adapter holds.
  public var parameters = 0
  /// Bytes of its tensors' file.
  public var bytes = 0
  /// Its content identity.
  public var identity = Digest128(high: 0, low: 0)
  /// Things worth telling.
  public var warnings: [Warning] = []

  /// Why the adapter does not fit the base; the rest is then what can be said without one.
  public var mismatch: NibbleError?

  /// Looks at an adapter, and with `base` at what it would do there.
  ///
  /// - Throws: `.quality` for values that are not finite
  public init(_ file: AdapterFile, base: Checkpoint? = nil, threads: Int = availableCores) throws {
    identity = try file.identity()
    bytes = file.mapped.checkpoint.storedBytes
    parameters = file.mapped.checkpoint.tensors.reduce(0) { $0 + $1.count }
    warnings = file.warnings
    replaced =
      file.replacements.map { ($0.name, $0.tensor.shape) }
      + file.tokenRows.map { ("\($0.path), \($0.tokens.count) rows", $0.values.shape) }
    var rounding: (anew: [String: ChangeSums], codes: [String: ChangeSums]) = ([:], [:])
    var fitting = base
    if let base {
      do {
        let repeated = try base.replicatingLayers(for: [file]) { nil }
        fitting = repeated
        coverage = Self.coverage(file, repeated)
        rounding = try measured(file, base, threads)
      } catch let error as NibbleError where error.kind == .adapterMismatch { mismatch = error }
    }
    let keys = Set(rounding.anew.keys).union(rounding.codes.keys).sorted()
    let names = ModuleNames(keys, of: fitting)
    let sized = mismatch == nil ? try fitting.map { try file.sized(by: $0) } ?? file : file
    for module in sized.modules {
      guard let factors = try sized.knownFactors(of: module) else {
        _ = try file.numbers(of: module, Engine(.f32, team: Team(threads: 1)))
        replaced += module.tensors.map { ("\(module.path), \(module.method.name)", $0.shape) }
        continue
      }
      let values = try SingularFactors([factors])
      modules.append(
        Module(
          path: module.path, inputs: factors.inputs, outputs: factors.outputs, rank: module.rank,
          effectiveRank: values.effectiveRank, alpha: try file.config.alpha(of: module.path), scale: module.scale,
          norm: values.norm, packedAnew: names.index(of: module.path).flatMap { rounding.anew[keys[$0]] },
          intoCodes: names.index(of: module.path).flatMap { rounding.codes[keys[$0]] }))
    }
  }

  /// What merges into `base` would keep of each change; adds to `warnings`.
  private mutating func measured(_ file: AdapterFile, _ base: Checkpoint, _ threads: Int) throws -> (
    anew: [String: ChangeSums], codes: [String: ChangeSums]
  ) {
    warnings += try file.targetWarnings(base.replicatingLayers(for: [file]) { nil }) + BaseMatch(base, [file], anyBase: true, threads: threads).warnings
    let all = try Self.rounding(file, base, threads)
    guard base.packed.isEmpty else {
      return (all.filter { !Self.isPacked($0.key, base) }, all.filter { Self.isPacked($0.key, base) })
    }
    do {
      let packed = try Self.packed(base, threads)
      return (all, try Self.rounding(file, packed, threads).filter { Self.isPacked($0.key, packed) })
    } catch let error as NibbleError where [.quality, .cannotWrite, .usage].contains(error.kind) {
      warnings.append(.init(.precision, "what a packed base would keep is not measured: \(error.text)"))
      return (all, [:])
    }
  }

  /// The base as `quantize` packs it, in a file that has no name any more.
  private static func packed(_ base: Checkpoint, _ threads: Int) throws -> Checkpoint {
    let folder = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    // Others may look at adapters at the same time, in this process, too.
    let name = "nibble-inspect-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    return try base.packedForm(QuantizeOptions(), beside: "\(folder)/\(name)", threads: threads)
  }

  private static func isPacked(_ path: String, _ base: Checkpoint) -> Bool {
    base.packed.contains { $0.name == ByteName(path + ".weight") }
  }

  /// What a merge makes of the change of each module, by path: rounded into the base's own codes, or of a plain base packed anew.
  private static func rounding(_ file: AdapterFile, _ base: Checkpoint, _ threads: Int) throws -> [String: ChangeSums] {
    var options = MergeOptions([.init(file)])
    options.minimumSurvival = 0
    let spec = try OutputSpec(path: "none.nbl", format: .nbl, default: .nbl)
    var job = try StreamJob.merge(base, options, to: spec)
    job.threads = threads
    return try job.roundingSurvival().reduce(into: [:]) { $0[String($1.key.dropLast(".weight".count))] = $1.value }
  }

  private static func coverage(_ file: AdapterFile, _ base: Checkpoint) -> [Coverage] {
    let matrices = base.modulePaths
    let names = ModuleNames(matrices, of: base)
    let adapted = Set(file.modules.compactMap { names.index(of: $0.path) })
    var order: [String] = []
    var counts: [String: (adapted: Int, count: Int)] = [:]
    for (index, path) in matrices.enumerated() {
      let name = path.split(separator: ".").last.map(String.init) ?? path
      if counts[name] == nil { order.append(name) }
      counts[name, default: (0, 0)].count += 1
      if adapted.contains(index) { counts[name, default: (0, 0)].adapted += 1 }
    }
    return order.map { Coverage(name: $0, adapted: counts[$0]?.adapted ?? 0, count: counts[$0]?.count ?? 0) }
  }
}

extension Checkpoint {
  /// Modules with a weight of two or more dimensions: what can be adapted.
  var modulePaths: [String] {
    tensors.filter { $0.shape.count >= 2 && $0.name.text.hasSuffix(".weight") }
      .map { String($0.name.text.dropLast(".weight".count)) }
  }
}

import ArgumentParser
import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

/// Flags of every verb that computes with a model.
struct ModelOptions: ParsableArguments {
  @Option(name: [.long, .customShort("m")], help: "The model: a Hugging Face folder, an .nbl file, a bitsandbytes folder, or ORG/NAME in the local cache.")
  var base: String

  @Option(
    help: ArgumentHelp("Attach an adapter, optionally under a name and with a weight; may be repeated.", valueName: "[NAME=]DIR[:WEIGHT]"))
  var adapter: [String] = []

  @Option(
    help: ArgumentHelp("Apply this patch to the block file in memory; the file does not change.", valueName: "TASK.patch"))
  var patch: String?

  @Option(help: "Precision of matrix products: fp32, or bf16 with float32 sums.")
  var computeDtype: Compute = .f32

  @Flag(help: "Skip the checksums of a block file.")
  var noVerify = false

  func open(_ common: CommonOptions) throws -> Model {
    // An adapter may bring the head it was trained with.
    let files = try adapters.map { try AdapterFile.open($0.path) }
    let heads = try files.compactMap { try NewHead(of: $0) }
    if let first = heads.first, let other = heads.first(where: { $0 != first }) {
      throw NibbleError.usage(
        "the adapters have different heads: \(first.labels) and \(other.labels) classes, \(first.pooling.rawValue) and \(other.pooling.rawValue)"
      )
    }
    var checkpoint = try Checkpoint.open(base)
    if let patch { checkpoint = try checkpoint.patched(by: PatchFile(patch)) }
    // Or tokens of its own, or more layers.
    checkpoint = try checkpoint.grown(for: files)
    return try Model(
      checkpoint, precision: computeDtype, team: Team(threads: common.workers), classifier: heads.first, verifies: !noVerify)
  }

  /// The same with another model and its adapters.
  func replaced(_ base: String, adapters: [String]) -> ModelOptions {
    var other = self
    (other.base, other.adapter, other.patch) = (base, adapters, nil)
    return other
  }

  var adapters: [AdapterFlag] { get throws { try AdapterFlag.parse(adapter) } }
}

extension Compute: ExpressibleByArgument {
  public init?(argument: String) { self.init(rawValue: DType.shortName(argument)) }
}

/// `[NAME=]DIR[:WEIGHT]`.
struct AdapterFlag {
  var name: String
  var path: String
  var weight: Float = 1

  /// Adapters without a name are called by their paths.
  static func parse(_ texts: [String]) throws -> [AdapterFlag] {
    try texts.map { text in
      guard !text.isEmpty else { throw NibbleError.usage("--adapter is empty") }
      var rest = text
      var name: String?
      // A folder whose name holds '=' is meant as it stands.
      if PathKind(text) == .nothing, let equals = text.firstIndex(of: "="), !text[..<equals].contains("/") {
        name = String(text[..<equals])
        rest = String(text[text.index(after: equals)...])
        guard name != "" else { throw NibbleError.usage("--adapter \(quoted(text)): the name before '=' is empty") }
      }
      var weight: Float = 1
      if PathKind(rest) == .nothing, let colon = rest.lastIndex(of: ":") {
        let number = String(rest[rest.index(after: colon)...])
        guard let value = Float(number), value.isFinite else {
          throw NibbleError.usage("--adapter \(quoted(text)): \(quoted(number)) is not a weight")
        }
        weight = value
        rest = String(rest[..<colon])
      }
      return AdapterFlag(name: name ?? rest, path: rest, weight: weight)
    }
  }
}

/// A model with its adapters attached.
struct OpenModel {
  let model: Model
  let set: AdapterSet
  /// Seconds it took to open the model and attach the adapters.
  let seconds: Double
  private let flags: [AdapterFlag]

  init(_ options: ModelOptions, _ common: CommonOptions) throws {
    let started = monotonicSeconds()
    flags = try options.adapters
    model = try options.open(common)
    set = AdapterSet(model)
    for flag in flags { common.warn(try set.attach(flag.path, as: flag.name)) }
    common.warn(model.checkpoint.warnings)
    seconds = monotonicSeconds() - started
  }

  /// All adapters at once, with the weights of `--adapter`.
  func all() throws -> [ActiveAdapter] { try set.selection(flags.map { ($0.name, $0.weight) }) }

  /// The adapters that `--use` names; without it, the only one attached.
  func use(_ texts: [String]) throws -> [ActiveAdapter] {
    if texts.isEmpty {
      guard flags.count <= 1 else {
        throw NibbleError.usage("several adapters are attached (\(set.names.joined(separator: ", "))); choose with --use NAME")
      }
      return try all()
    }
    return try set.selection(try parse(texts.joined(separator: ",")))
  }

  /// `NAME[:WEIGHT],…`; `none` for the bare base.
  func parse(_ text: String) throws -> [(name: String, weight: Float)] {
    if text == "none", !set.names.contains("none") { return [] }
    return text.split(separator: ",").map { part in
      let name = String(part)
      if let flag = flags.first(where: { $0.name == name }) { return (name, flag.weight) }
      guard let colon = name.lastIndex(of: ":"), let weight = Float(name[name.index(after: colon)...]), weight.isFinite else {
        return (name, 1)
      }
      return (String(name[..<colon]), weight)
    }
  }
}

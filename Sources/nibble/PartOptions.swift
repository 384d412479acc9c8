import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleTraining

/// Flags for what of a model is adapted or trained beside whole layers: PEFT's words.
struct PartOptions: ParsableArguments {
  @Option(help: "Modules of --target-modules to leave as they are: comma-separated names, or a regular expression for whole paths.")
  var excludeModules: String?
  @Option(
    parsing: .singleValue,
    help: ArgumentHelp(
      "Rows to train without the others: ids between commas, 7,9,300-302, of the embedding of tokens, or of the module before '='; can be repeated.",
      valueName: "[NAME=]IDS"))
  var trainableTokenIndices: [String] = []
  @Flag(help: "Train a bias behind the second factor of each layer. A merge needs layers with biases of their own.") var loraBias = false
  @Option(
    help: ArgumentHelp(
      "Layers of the base, from the first of each pair to before the second, that make a model with others or more: [[0,4],[2,6]].",
      valueName: "PAIRS"))
  var layerReplication: String?

  /// Layers of the base one after another; empty for the base as it is.
  var layers: [Range<Int>] {
    get throws {
      guard let layerReplication else { return [] }
      guard let ranges = (try? JSON.parse(layerReplication)).flatMap({ AdapterConfig.layerRanges($0) }), ranges.contains(where: { !$0.isEmpty }) else {
        throw NibbleError.usage("--layer-replication \(subject: layerReplication) is no list of pairs such as [[0,4],[2,6]]")
      }
      return ranges
    }
  }

  func apply(to options: inout AdapterOptions) throws {
    options.excluded = excludeModules
    options.layerReplication = try layers
    if loraBias { options.flags.insert("lora_bias") }
    for text in trainableTokenIndices {
      let (name, ids) = try Self.rows(text)
      options.trainRows(ids, of: name)
    }
  }

  /// A module's name, if there is one, and ids.
  private static func rows(_ text: String) throws -> (name: String?, ids: [Int]) {
    let parts = text.split(separator: "=", omittingEmptySubsequences: false)
    let ids = try (parts.last ?? "").split(separator: ",").flatMap { part in
      let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { Int($0.filter { $0 != " " }) }
      guard let first = ends.first ?? nil, let last = ends.last ?? nil, ends.count <= 2, first >= 0, last >= first, last - first < 1 << 20 else {
        throw NibbleError.usage("--trainable-token-indices \(subject: text): \(quoted(String(part))) is neither an id nor ids such as 7-9")
      }
      return Array(first...last)
    }
    guard !ids.isEmpty, parts.count <= 2, parts.count == 1 || !parts[0].isEmpty else {
      throw NibbleError.usage("--trainable-token-indices \(subject: text) is not [NAME=]IDS")
    }
    return (parts.count == 2 ? String(parts[0]) : nil, ids)
  }

  /// As `--config` takes them.
  var yaml: [(String, JSON?)] {
    [
      ("exclude_modules", excludeModules.map { JSON($0) }),
      ("trainable_token_indices", trainableTokenIndices.isEmpty ? nil : JSON(trainableTokenIndices)), ("lora_bias", loraBias ? .bool(true) : nil),
      ("layer_replication", layerReplication.map { JSON($0) }),
    ]
  }

  static let flags = ["--exclude-modules", "--trainable-token-indices", "--lora-bias", "--layer-replication"]
}

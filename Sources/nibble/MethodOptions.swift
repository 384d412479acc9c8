import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTraining

/// Flags for the numbers that methods have of their own, and for ranks by kind and depth of layers.
struct MethodOptions: ParsableArguments {
  @Option(help: "qalora: inputs per group (default: the groups of an int4 base, else 32).") var qaloraGroupSize: Int?
  @Option(help: "qbara: how many inputs share a number, and outputs (default: 2).") var lambda: Int?
  @Option(name: .customLong("lambda-1"), help: "qahira: inputs of a tile (default: 4).") var lambdaInputs: Int?
  @Option(name: .customLong("lambda-2"), help: "qahira: outputs of a tile (default: 8).") var lambdaOutputs: Int?
  @Option(
    parsing: .singleValue, help: ArgumentHelp("Lambda of the modules that match a pattern, qahira's as lambda-1,lambda-2; can be repeated.", valueName: "REGEX=N[,M]"))
  var lambdaPattern: [String] = []
  @Option(help: "Rank of the layers of the attention.") var rankAtt: Int?
  @Option(help: "Rank of the layers of the MLP.") var rankMlp: Int?
  @Option(name: .customLong("rank-1"), help: "Rank of the layers in the first half of the model.") var rankFirst: Int?
  @Option(name: .customLong("rank-2"), help: "Rank of the layers in the second half.") var rankSecond: Int?
  @Flag(help: "Keep the scale, alpha / rank, of layers with a rank of their own, instead of alpha.") var fixedScale = false

  func check() throws {
    for (value, flag) in [
      (qaloraGroupSize, "--qalora-group-size"), (lambda, "--lambda"), (lambdaInputs, "--lambda-1"), (lambdaOutputs, "--lambda-2"), (rankAtt, "--rank-att"), (rankMlp, "--rank-mlp"),
      (rankFirst, "--rank-1"), (rankSecond, "--rank-2"),
    ] where !(1...1 << 20).contains(value ?? 1) { throw NibbleError.usage("\(flag) \(value ?? 0) is not from 1 to \(1 << 20)") }
  }

  /// - Throws: `.usage` for numbers the method does not have
  func apply(to options: inout AdapterOptions) throws {
    let ranks = (rankAtt, rankMlp, rankFirst, rankSecond)
    (options.layerRanks.attention, options.layerRanks.mlp, options.layerRanks.firstHalf, options.layerRanks.secondHalf) = ranks
    options.fixesScale = fixedScale
    let own = Set((options.method.adapter?.method.settings ?? []).map(\.key))
    func set(_ key: String, _ value: Int?, _ flag: String) throws {
      guard let value else { return }
      guard own.contains(key) else { throw NibbleError.usage("\(flag) does not go with --method \(options.method.rawValue)") }
      options.settings[key] = Double(value)
    }
    try set(QALoRA.group.key, qaloraGroupSize, "--qalora-group-size")
    try set(QBaRA.lambda.key, lambda, "--lambda")
    try set(QAHiRA.inputs.key, lambdaInputs, "--lambda-1")
    try set(QAHiRA.outputs.key, lambdaOutputs, "--lambda-2")
    for text in lambdaPattern {
      let (pattern, number) = try FinetuneCommand.pattern(text, "--lambda-pattern")
      let keys = [[QBaRA.lambda.key], [QAHiRA.inputs.key, QAHiRA.outputs.key]].first { own.isSuperset(of: $0) } ?? []
      guard !keys.isEmpty else { throw NibbleError.usage("--lambda-pattern does not go with --method \(options.method.rawValue)") }
      let values = number.split(separator: ",").map { Int($0) ?? 0 }
      guard values.count == keys.count, values.allSatisfy({ (1...4096).contains($0) }) else {
        throw NibbleError.usage(
          "--lambda-pattern \(subject: text): the part after '=' is not \(keys.count == 1 ? "a lambda" : "lambda-1,lambda-2")")
      }
      for (key, value) in zip(keys, values) { options.settingPatterns.append((key, pattern, Double(value))) }
    }
  }

  /// Groups of QA-LoRA as the base has them, where none were asked for.
  func applyBase(_ model: Model, to options: inout AdapterOptions) {
    guard options.method.adapter?.method == QALoRA.self, options.settings[QALoRA.group.key] == nil else { return }
    let found = model.checkpoint.packed.compactMap { $0.encoding.parameter("group_size")?.int }.max() ?? 0
    options.settings[QALoRA.group.key] = Double(found > 0 ? found : 32)
  }

  /// As `--config` takes them.
  var yaml: [(String, JSON?)] {
    [
      ("qalora_group_size", qaloraGroupSize.map { JSON($0) }), ("lambda", lambda.map { JSON($0) }),
      ("lambda_1", lambdaInputs.map { JSON($0) }), ("lambda_2", lambdaOutputs.map { JSON($0) }),
      ("lambda_pattern", lambdaPattern.isEmpty ? nil : JSON(lambdaPattern)), ("rank_att", rankAtt.map { JSON($0) }),
      ("rank_mlp", rankMlp.map { JSON($0) }), ("rank_1", rankFirst.map { JSON($0) }), ("rank_2", rankSecond.map { JSON($0) }),
      ("fixed_scale", fixedScale ? .bool(true) : nil),
    ]
  }

  static let flags = [
    "--qalora-group-size", "--lambda", "--lambda-1", "--lambda-2", "--lambda-pattern", "--rank-att", "--rank-mlp", "--rank-1", "--rank-2", "--fixed-scale",
  ]
}

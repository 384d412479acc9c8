import ArgumentParser
import NibbleCore

/// The options and arguments of one verb, as the parser describes them.
///
/// The parser names a missing option before an unknown one. So when it refuses the words, they are looked at again here: an option the
/// verb does not have is named first, names that other programs use become nibble's, and files without a flag get theirs.
struct VerbOptions {
  struct Option {
    /// As they are typed: `--base`, `-m`.
    let names: [String]
    let takesValue: Bool
    /// Whether the next word is the value even where it begins with a dash.
    let takesAnyWord: Bool
    /// Whether it may be given several times.
    let isRepeating: Bool
  }

  /// `adapter inspect`
  let verb: String
  let options: [Option]
  /// The names of its positional arguments.
  let arguments: [String]

  /// - Returns: nil where the parser's description is not what it was when this was written
  init?(_ verb: String, _ command: any ParsableCommand.Type) {
    guard let all = try? JSON.parse(command._dumpHelp())["command"]?["arguments"]?.array else { return nil }
    self.verb = verb
    arguments = all.filter { $0["kind"]?.string == "positional" }.compactMap { $0["valueName"]?.string }
    options = all.filter { $0["kind"]?.string != "positional" }.map { one in
      let names = (one["names"]?.array ?? []).compactMap { name -> String? in
        name["name"]?.string.map { (name["kind"]?.string == "long" ? "--" : "-") + $0 }
      }
      return Option(
        names: names, takesValue: one["kind"]?.string == "option",
        takesAnyWord: one["parsingStrategy"]?.string == "unconditional", isRepeating: one["isRepeating"]?.bool == true)
    }
  }

  /// Options that files without a flag stand for, in this order; one with an ellipsis takes all that are left.
  static let files: [String: [String]] = [
    "merge": ["--base", "--adapter…"], "unmerge": ["--merged", "--adapter…"], "patch": ["--from", "--to"],
    "swap": ["--file", "--patch"], "generate": ["--base"], "evaluate": ["--base", "--data"], "finetune": ["--base", "--data"],
    "forward": ["--base", "--ids"], "adapter extract": ["--base", "--tuned"],
  ]

  /// `nibble merge BASE ADAPTER… [<options>]`, for verbs that take files without flags.
  static func synopsis(_ verb: String) -> String? {
    files[verb].map { "nibble \(verb) \($0.map { $0.dropFirst(2).uppercased() }.joined(separator: " ")) [<options>]" }
  }

  /// Names that Hugging Face's tools, llama.cpp and mlx-lm have for an option.
  static let otherNames = [
    "--model": "--base", "--model-name-or-path": "--base", "--lr": "--learning-rate", "--num-train-epochs": "--epochs",
    "--num-epochs": "--epochs", "--per-device-train-batch-size": "--batch-size", "--lr-scheduler-type": "--lr-scheduler",
    "--max-seq-length": "--max-length", "--lora-rank": "--lora-r", "--temp": "--temperature", "--max-tokens": "--max-new-tokens",
    "--optim": "--optimizer", "--label-smoothing-factor": "--label-smoothing", "--loraplus-lr-ratio": "--loraplus-ratio",
    "--num-cycles": "--lr-cycles", "--num-decay-steps": "--lr-decay-steps", "--min-lr-ratio": "--lr-least",
    "--n-predict": "--max-new-tokens", "--repeat-penalty": "--repetition-penalty", "--output-dir": "--output",
  ]

  /// The words behind the verb with every option under a name of its own and every file behind its flag.
  ///
  /// - Throws: `.usage` for an option the verb does not have, and for files it has no place for
  func resolved(_ words: [String]) throws -> [String] {
    var named: [String] = []
    var given: Set<String> = []
    var free: [Int] = []
    var rest = words[...]
    func takeFile(_ word: String) {
      free.append(named.count)
      named.append(word)
    }
    while let word = rest.popFirst() {
      if word == "--", Self.files[verb] != nil {
        rest.forEach(takeFile)
        break
      }
      if word == "--" { return named + [word] + rest }
      guard Self.isOption(word) else {
        takeFile(word)
        continue
      }
      let name = String(word.prefix { $0 != "=" })
      if option(name) == nil, isArgument(name) {
        if name != word { takeFile(String(word.dropFirst(name.count + 1))) } else if let value = rest.popFirst() { takeFile(value) }
        continue
      }
      let own = try self.own(name)
      named.append(own + word.dropFirst(name.count))
      guard let option = option(own) else { continue }
      given.formUnion(option.names)
      let isWhole = name == word && (word.hasPrefix("--") || own.count == 2)
      if option.takesValue, isWhole, let next = rest.first, option.takesAnyWord || !Self.isOption(next) {
        named.append(next)
        rest.removeFirst()
      }
    }
    try name(free, of: &named, given)
    return named
  }

  private func name(_ free: [Int], of named: inout [String], _ given: Set<String>) throws {
    guard let files = Self.files[verb] else { return }
    var open = files.filter { !given.contains($0) }
    for place in free {
      guard let file = open.first else { throw NibbleError.usage("unexpected argument \(quoted(named[place])); \(hint)") }
      let isLast = !file.hasSuffix("…")
      named[place] = (isLast ? file : String(file.dropLast())) + "=" + named[place]
      if isLast { open.removeFirst() }
    }
  }

  private static func isOption(_ word: String) -> Bool {
    guard word.count > 1, word.hasPrefix("-") else { return false }
    // A negative number.
    return Double(word) == nil
  }

  func option(_ name: String) -> Option? {
    // Short options may stand together, or be followed by a value.
    let known = name.hasPrefix("--") ? name : String(name.prefix(2))
    return options.first { $0.names.contains(known) }
  }

  /// Whether a flag spells out an argument that needs none: `--model` of `quantize MODEL`.
  private func isArgument(_ name: String) -> Bool { name.hasPrefix("--") && arguments.contains(String(name.dropFirst(2))) }

  /// The verb's own name for an option.
  func own(_ name: String) throws -> String {
    // `-prompt` is a long option with a dash too few.
    if !name.hasPrefix("--"), name.count > 2, options.contains(where: { $0.names.contains("-" + name) }) { throw unknown(name, "-" + name) }
    if option(name) != nil { return name }
    if let other = Self.otherNames[name], option(other) != nil { return other }
    let names = options.flatMap(\.names).filter { $0.hasPrefix("--") }
    throw unknown(name, Suggestion.of(name, among: names))
  }

  private func unknown(_ name: String, _ suggestion: String?) -> NibbleError {
    NibbleError.usage("unknown option \(name); \(suggestion.map { "did you mean \($0)?" } ?? hint)")
  }

  private var hint: String { "see 'nibble \(verb) --help'" }
}

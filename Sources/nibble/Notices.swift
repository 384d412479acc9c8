import NibbleCore

extension Setting {
  /// The flag that sets it: its name in kebab-case, unless the verb calls it otherwise.
  var flag: String { "--" + (Self.otherNames[self] ?? kebabCase) }

  /// The flag with its value. A switch that is to be off has a flag of its own.
  func flag(_ value: String?) -> String {
    switch value {
    case nil, "true": flag
    case "false": "--no-" + flag.dropFirst(2)
    case let value?: "\(flag) \(value)"
    }
  }

  private static let otherNames: [Setting: String] = [.loraRank: "lora-r"]

  private var kebabCase: String { name.reduce(into: "") { $0 += $1.isUppercase ? "-" + $1.lowercased() : String($1) } }
}

extension MessageText {
  /// The sentence with the flags of the command line in it.
  var withFlags: String { written { $0.flag($1) } }
}

extension Notice {
  /// One line for a terminal, with the flags of the command line in it.
  var line: String { oneLine(text.withFlags) }
}

extension JSON {
  /// Warnings as a list of sentences.
  init(_ warnings: [Warning]) { self.init(warnings.map(\.text.withFlags)) }
}

import ArgumentParser
import Glibc
import NibbleCore
import NibbleFormats

/// Writes the manual: a page for the program and one a verb. `tools/install` calls it.
struct ManualPagesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "manual-pages", abstract: "Write the manual pages into a folder.", shouldDisplay: false)

  @Argument(help: "The folder, which must be there.", completion: .directory) var folder: String

  func run() throws {
    for (name, text) in try ManualPage.all() {
      let path = "\(folder)/\(name).1"
      unlink(path)
      try TextFile.write(text, to: path)
    }
  }
}

/// A page in man(7)'s language, made of the parser's own description of a command.
struct ManualPage {
  private var lines: [String] = []

  /// The pages and their names, `nibble-adapter-merge`.
  static func all() throws -> [(name: String, text: String)] {
    guard let root = try? JSON.parse(Nibble._dumpHelp())["command"] else {
      throw NibbleError(.failed, "the parser describes no commands")
    }
    return pages(root, "", Date.today)
  }

  private static func pages(_ command: JSON, _ verb: String, _ date: String) -> [(name: String, text: String)] {
    let below = (command["subcommands"]?.array ?? []).filter { $0["shouldDisplay"]?.bool != false && $0["commandName"]?.string != "help" }
    let own = ManualPage(command, verb, below, date)
    return [(name(verb), own.lines.joined(separator: "\n") + "\n")]
      + below.flatMap { pages($0, verb.isEmpty ? called($0) : verb + " " + called($0), date) }
  }

  private static func called(_ command: JSON) -> String { command["commandName"]?.string ?? "" }

  private static func name(_ verb: String) -> String { "nibble" + (verb.isEmpty ? "" : "-" + verb.replacing(" ", with: "-")) }

  private init(_ command: JSON, _ verb: String, _ below: [JSON], _ date: String) {
    let program = verb.isEmpty ? "nibble" : "nibble " + verb
    lines = [".TH \(Self.escaped(Self.name(verb).uppercased())) 1 \(date) \"nibble \(nibbleVersion)\" \"nibble manual\"", ".SH NAME"]
    // Whatever looks pages up takes the dash between name and purpose for a mark.
    text("", plain: "\(Self.escaped(Self.name(verb))) \\- \(Self.escaped(Self.withoutStop(command["abstract"]?.string ?? "")))")
    lines.append(".SH SYNOPSIS")
    let arguments = (command["arguments"]?.array ?? []).filter { $0["shouldDisplay"]?.bool != false }
    let positional = arguments.filter { $0["kind"]?.string == "positional" }
    let places = positional.map { "\($0["valueName"]?.string ?? "")\($0["isRepeating"]?.bool == true ? "…" : "")" }
    text("", plain: "\\fB\(Self.escaped(program))\\fR \(Self.escaped(below.isEmpty ? "[options] \(places.joined(separator: " "))" : "verb [options]"))")
    if let files = VerbOptions.synopsis(verb) {
      lines.append(".br")
      text(files)
    }
    if let discussion = command["discussion"]?.string {
      lines.append(".SH DESCRIPTION")
      for (index, part) in discussion.split(separator: "\n\n").enumerated() {
        if index > 0 { lines.append(".PP") }
        text(String(part))
      }
    }
    if !below.isEmpty {
      lines.append(".SH VERBS")
      for one in below {
        let whole = verb.isEmpty ? Self.called(one) : verb + " " + Self.called(one)
        tag("\\fB\(Self.escaped(Self.name(whole)))\\fR(1)", one["abstract"]?.string ?? "")
      }
    }
    if !positional.isEmpty { lines.append(".SH ARGUMENTS") }
    for argument in positional { tag("\\fI\(Self.escaped(argument["valueName"]?.string ?? ""))\\fR", argument["abstract"]?.string ?? "") }
    lines.append(".SH OPTIONS")
    for argument in arguments where argument["kind"]?.string != "positional" { option(argument) }
    let examples = verb.isEmpty ? Examples.of("quantize") + Examples.of("generate") : Examples.of(verb)
    if !examples.isEmpty { lines.append(".SH EXAMPLES") }
    for (index, example) in examples.flatMap(\.examples).enumerated() {
      if index > 0 { lines.append(".PP") }
      text(example.purpose)
      lines += [".PP", ".RS 4", ".nf", Self.escaped(example.command), ".fi", ".RE"]
    }
    lines.append(".SH SEE ALSO")
    let others = verb.isEmpty ? below.map(Self.called) : verb.contains(" ") ? ["", "adapter"] : [""]
    text("", plain: others.map { "\\fB\(Self.escaped(Self.name($0)))\\fR(1)" }.joined(separator: ", "))
  }

  private mutating func option(_ argument: JSON) {
    let names = (argument["names"]?.array ?? []).compactMap { name -> String? in
      name["name"]?.string.map { "\\fB" + Self.escaped((name["kind"]?.string == "long" ? "--" : "-") + $0) + "\\fR" }
    }
    let value = argument["kind"]?.string == "option" ? " \\fI\(Self.escaped(argument["valueName"]?.string ?? ""))\\fR" : ""
    var help = argument["abstract"]?.string ?? ""
    if let standard = argument["defaultValue"]?.string, argument["kind"]?.string == "option" { help += " (default: \(standard))" }
    tag(names.joined(separator: ", ") + value, help)
  }

  private mutating func tag(_ label: String, _ help: String) {
    lines += [".TP", label]
    text(help.isEmpty ? "No description." : help)
  }

  /// Text broken into lines that editors and `mandoc -T lint` are content with.
  private mutating func text(_ words: String, plain: String? = nil) {
    var line = ""
    for word in (plain ?? Self.escaped(words)).split(whereSeparator: { $0 == " " || $0 == "\n" }) {
      if !line.isEmpty, line.utf8.count + word.utf8.count > 76 {
        lines.append(Self.protected(line))
        line = ""
      }
      line += (line.isEmpty ? "" : " ") + word
    }
    if !line.isEmpty { lines.append(Self.protected(line)) }
  }

  /// A line that begins with a dot is a request.
  private static func protected(_ line: String) -> String { line.hasPrefix(".") || line.hasPrefix("'") ? "\\&" + line : line }

  private static func escaped(_ text: String) -> String {
    text.unicodeScalars.map { scalar in
      switch scalar {
      case "\\": "\\e"
      case "-": "\\-"
      case "'": "\\(aq"
      case "`": "\\(ga"
      case "^": "\\(ha"
      case "~": "\\(ti"
      default: scalar.isASCII ? String(scalar) : "\\[u\(hexadecimal(scalar.value))]"
      }
    }.joined()
  }

  private static func hexadecimal(_ value: UInt32) -> String {
    let digits = String(value, radix: 16, uppercase: true)
    return String(repeating: "0", count: max(0, 4 - digits.count)) + digits
  }

  private static func withoutStop(_ text: String) -> String { text.hasSuffix(".") ? String(text.dropLast()) : text }

  private enum Date {
    /// As man(7) wants it: 2026-11-29.
    static var today: String {
      var now = time(nil), parts = tm()
      gmtime_r(&now, &parts)
      func two(_ number: Int32) -> String { (number < 10 ? "0" : "") + "\(number)" }
      return "\(1900 + parts.tm_year)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
    }
  }
}

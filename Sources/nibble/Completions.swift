/// The parser's completion scripts, which know verbs, options and values, with files where it has nothing to offer.
///
/// It completes files only for arguments declared as such; here nearly every value without a list is a file or a number, and verbs take
/// files that the parser does not know of.
enum Completions {
  static func withFiles(_ script: String) -> String {
    if script.hasPrefix("#!/bin/bash") {
      return script.replacing("complete -o filenames -F _nibble", with: "complete -o filenames -o default -F _nibble")
    }
    return script.hasPrefix("#compdef") ? zsh(script) : fish(script)
  }

  private static func zsh(_ script: String) -> String {
    var lines: [Substring] = []
    var takesFiles = false
    for line in script.split(separator: "\n", omittingEmptySubsequences: false) {
      if line.hasSuffix("() {") {
        let verb = line.dropLast("() {".count).dropFirst("_nibble_".count).replacing("_", with: " ")
        takesFiles = VerbOptions.files[String(verb)] != nil
      }
      if takesFiles, line == "    )" {
        lines.append("        '*:file:_files'")
        takesFiles = false
      }
      // An argument without an action: `':model:'`, `'--base[…]:base:'`.
      lines.append(line.hasPrefix("        ") && line.hasSuffix(":'") ? line.dropLast() + "_files'" : line)
    }
    return lines.joined(separator: "\n")
  }

  private static func fish(_ script: String) -> String {
    script.replacing(" -rfka ''", with: " -rF")
      + "\ncomplete -c 'nibble' -n 'not __nibble_should_offer_completions_for_positional \"nibble\" -eq 1' -F\n"
  }
}

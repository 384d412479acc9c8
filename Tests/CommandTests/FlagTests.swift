import ArgumentParser
import NibbleCore
import Testing

@testable import nibble

@Suite("Options of the library as flags")
struct FlagTests {
  @Test("every option that a message names is a flag of some verb", arguments: Setting.allCases)
  func flags(_ setting: Setting) {
    func helps(_ command: any ParsableCommand.Type) -> [String] {
      [command.helpMessage(includeHidden: true)] + command.configuration.subcommands.flatMap(helps)
    }
    let words = Set(
      helps(Nibble.self).joined(separator: " ").split { !($0.isLetter || $0.isNumber || $0 == "-") }.map(String.init))
    #expect(words.contains(setting.flag))
  }

  @Test("options become flags: kebab-case, values, switches that are off")
  func written() {
    let text: MessageText =
      "\(.maxError, 0.1), \(.check, false), \(.doubleQuant, false), \(.force), \(.loraRank, 8), \(.resume, true)"
    #expect(text.withFlags == "--max-error 0.1, --no-check, --no-double-quant, --force, --lora-r 8, --resume")
    let warning = Warning(.unused, "\(path: "a\nb"): \(.keep) has no effect")
    #expect(warning.line == #"a\u{A}b: --keep has no effect"#)
    #expect(JSON([warning]) == ["a\nb: --keep has no effect"])
  }
}

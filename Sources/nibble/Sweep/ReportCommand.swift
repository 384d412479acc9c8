import ArgumentParser
import NibbleCore
import NibbleSweep

struct ReportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "report",
    abstract: "Write one page of what a sweep or a run of training found: tables, plots, commands, failures.",
    discussion: "The page is one HTML file that loads nothing. It is written anew each time; --force replaces any other file.")

  @Argument(help: "The folder of a sweep, or what 'nibble finetune' wrote.") var folder: String
  @Option(name: .shortAndLong, help: "The file to write (default: report.html in the folder).") var output: String?
  @Flag(help: "Replace an existing file that is not report.html in the folder.") var force = false
  @OptionGroup var common: CommonOptions

  func run() throws {
    let page = try Report.page(of: folder)
    let place = output ?? folder.withoutTrailingSlashes + "/report.html"
    try TextFile.write(page, to: place, force: force || output == nil)
    if common.json { try StandardOutput.print(["verb": "report", "output": JSON(place), "bytes": JSON(page.utf8.count)]) } else { try StandardOutput.print(place) }
  }
}

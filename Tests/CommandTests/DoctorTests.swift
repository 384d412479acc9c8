import NibbleCore
import TestSupport
import Testing

@Suite("doctor, manual pages and completions")
struct DoctorTests {
  private static let secret = "/srv/secret-models"

  @Test(
    "what a bug report needs, and no path of the user's",
    arguments: [["HF_HOME": secret], ["HF_HUB_CACHE": secret], ["XDG_CACHE_HOME": secret], ["HOME": secret], [:]])
  func doctor(_ variables: [String: String]) throws {
    let environment = ["HF_HOME": "", "HF_HUB_CACHE": "", "NIBBLE_KERNELS": "portable"].merging(variables) { $1 }
    let text = try Program.run(["doctor"], environment: environment)
    let json = try Program.run(["doctor", "--json"], environment: environment)
    #expect(text.code == 0 && json.code == 0 && text.errors.isEmpty)
    let folder = TemporaryFolder().path
    for output in [text.output, json.output] { #expect(!output.contains(Self.secret) && !output.contains(folder)) }
    let document = try JSON.parse(json.output)
    for key in ["version", "build", "system", "processor", "blas", "memory_limit", "libraries", "findings"] {
      #expect(document[key] != nil, "\(key)")
    }
    #expect(document["kernels"]?["variant"]?.string == "portable")
    #expect(document["environment"]?["NIBBLE_KERNELS"]?.string == "portable")
    #expect(document["cores"]?.int ?? 0 > 0 && document["memory"]?.int ?? 0 > 1 << 20 && document["disk_free_here"]?.int ?? 0 > 0)
    #expect(document["libraries"]?["zstd"]?.string?.hasPrefix("1.") == true)
    let variable = variables.keys.first { $0 != "HOME" }
    #expect(document["cache"]?["folder"]?.string?.hasPrefix(variable.map { "$" + $0 } ?? "~/.cache") == true)
  }

  @Test("a page a verb, with its options and examples, all of it ASCII")
  func pages() throws {
    let folder = TemporaryFolder()
    #expect(try Program.run(["manual-pages", folder.path]).code == 0)
    #expect(folder.contents.count > 20 && folder.contents.contains("nibble-adapter-inspect.1"))
    for page in folder.contents {
      let text = try bytes(of: folder.file(page))
      #expect(text.allSatisfy { $0 < 0x80 })
      let lines = String(decoding: text, as: UTF8.self).split(separator: "\n")
      #expect(lines.first?.hasPrefix(".TH NIBBLE") == true && lines.contains(".SH EXAMPLES") && lines.allSatisfy { $0.utf8.count <= 110 })
    }
    let merge = String(decoding: try bytes(of: folder.file("nibble-merge.1")), as: UTF8.self)
    #expect(merge.contains("\\fB\\-\\-when\\-lost\\fR \\fIwhen\\-lost\\fR"))
    #expect(try Program.run(["manual-pages", folder.file("none")]).code == 7)
  }

  @Test("completion scripts offer files", arguments: [("bash", "-o default"), ("zsh", "'*:file:_files'"), ("fish", " -rF")])
  func completions(_ shell: String, _ mark: String) throws {
    let script = try Program.run(["--generate-completion-script", shell])
    #expect(script.code == 0 && script.output.contains(mark) && !script.output.contains("EXAMPLES:"))
    #expect(!script.output.contains("manual-pages"))
  }
}

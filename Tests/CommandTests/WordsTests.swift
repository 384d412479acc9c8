import ArgumentParser
import NibbleCore
import NibbleQuant
import TestSupport
import Testing

@testable import nibble

@Suite("Words of the command line")
struct WordsTests {
  @Test(
    "an unknown option is named first, with the verb's own name that is near it",
    arguments: [
      ("generate --promt x", "unknown option --promt; did you mean --prompt?"),
      ("generate -prompt x", "unknown option -prompt; did you mean --prompt?"),
      ("generate --topk 3", "--top-k?"), ("generate --max-new 3", "--max-new-tokens?"),
      // Near to `--stop`, and short for two others.
      ("generate --top 3", "unknown option --top; see 'nibble generate --help'"),
      ("generate --learning-rate 1", "unknown option --learning-rate; see"), ("finetune --step 3", "--step; see"),
      ("finetune --learing-rate=1", "--learning-rate?"), ("finetune --lora_rr 8", "--lora-r?"),
      ("quantize --codecs nf4", "--codec?"), ("quantize -z", "unknown option -z;"), ("plan merge --bsae x", "--base?"),
      ("adapter inspect --bse x", "--base?"), ("merge A B C --frobnicate", "--frobnicate; see 'nibble merge --help'"),
      ("quantise MODEL", "unknown verb 'quantise'; did you mean quantize?"), ("examples merg", "did you mean merge?"),
      ("swap F P Q", "unexpected argument 'Q'; see 'nibble swap --help'"),
    ])
  func unknown(_ line: String, _ expected: String) throws {
    let result = try Program.run(line.split(separator: " ").map(String.init))
    #expect(result.code == 2 && result.errorLines.count == 1)
    #expect(result.errors.contains(expected), "\(result.errors)")
  }

  @Test(
    "files without a flag, other programs' names and arguments given as flags",
    arguments: [
      ("merge B A1 A2 -o O", "merge --base=B --adapter=A1 --adapter=A2 -o O"),
      ("fuse --base B A -o O", "merge --base B --adapter=A -o O"), ("swap F P", "swap --file=F --patch=P"),
      ("patch A B -o P", "patch --from=A --to=B -o P"), ("generate M -p text", "generate --base=M -p text"),
      ("generate --model M --temp -1 --max-tokens 5 -p x", "generate --base M --temperature -1 --max-new-tokens 5 -p x"),
      ("generate -m M -p -- ", "generate -m M -p"), ("evaluate M D --json", "evaluate --base=M --data=D --json"),
      ("finetune B D --lr 1 --num-train-epochs=2 -j4", "finetune --base=B --data=D --learning-rate 1 --epochs=2 -j4"),
      ("finetune --data D B", "finetune --data D --base=B"), ("quantize --model M -o O", "quantize M -o O"),
      ("quantize --model=M -o O", "quantize M -o O"), ("merge -o O -- -B -A", "merge -o O --base=-B --adapter=-A"),
      ("adapter extract B T --rank 8", "adapter extract --base=B --tuned=T --rank 8"),
      ("finetune B --lora-dropout -0.5 D", "finetune --base=B --lora-dropout -0.5 --data=D"),
    ])
  func resolved(_ line: String, _ expected: String) throws {
    let words = line.split(separator: " ").map(String.init)
    let (verb, command) = try #require(Nibble.subcommand(words))
    let rest = Array(words.dropFirst(verb.split(separator: " ").count))
    let resolved = try #require(VerbOptions(verb, command)).resolved(rest)
    #expect(([verb] + resolved).joined(separator: " ") == expected)
  }

  @Test("distances", arguments: [("promt", "prompt", 1), ("abcd", "abdc", 1), ("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)])
  func distance(_ a: String, _ b: String, _ expected: Int) {
    #expect(Suggestion.distance(a, b) == expected && Suggestion.distance(b, a) == expected)
  }

  @Test("the words do what they stand for")
  func work() throws {
    let folder = TemporaryFolder()
    let file = folder.file("s.nbl")
    #expect(try Program.run(["quantize", "--model", stories, "-o", file, "--tensor", "o_proj=bfloat16"]).code == 0)
    #expect(try JSON.parse(Program.run(["inspect", file, "--json"]).output)["tensors"]?.array?.contains { $0["dtype"]?.string == "BF16" } == true)
    let long = ["--base", file, "--prompt", "Once upon", "--max-new-tokens", "4", "--temperature", "0", "--compute-dtype", "bf16", "-q"]
    let short = [file, "-p", "Once upon", "--max-tokens=4", "--temp", "0", "--compute-dtype", "bfloat16", "-q"]
    let (first, second) = (try Program.run(["generate"] + long), try Program.run(["generate"] + short))
    #expect(first.code == 0 && second.code == 0 && first.output == second.output && second.errors == first.errors)
    try folder.write("run.yaml", "lr: 1e-3\nnum_train_epochs: 3\nbase: \(file)\nmax_steps: 1")
    let trained = try Program.run(
      ["finetune", fixture("shakespeare/train.jsonl"), "--config", folder.file("run.yaml"), "--lr", "1e-4", "-o", folder.file("a"), "-q"])
    #expect(trained.code == 0, "\(trained.errors)")
    let record = String(decoding: try bytes(of: folder.file("a/run.yaml")), as: UTF8.self)
    #expect(record.contains("learning_rate: 0.0001") || record.contains("learning_rate: 1e-04"), "\(record)")
    #expect(record.contains("epochs: 3"))
  }
}

@Suite("Help")
struct HelpTests {
  @Test("without a verb: help, and a usage error")
  func bare() throws {
    let result = try Program.run([])
    #expect(result.code == 2 && result.errors == "nibble: error: a verb is missing\n")
    for group in ["CONVERT:", "CHECK:", "RUN:", "TRAIN:", "ADAPTERS:", "EXAMPLES:"] { #expect(result.output.contains(group)) }
    #expect(try Program.run(["--help"]).output == result.output)
  }

  @Test("every verb's help ends with two examples, and a test runs them", arguments: Examples.all.map(\.key))
  func examples(_ verb: String) throws {
    let words = verb.split(separator: " ").map(String.init)
    for arguments in [words + ["--help"], ["help"] + words] {
      let help = try Program.run(arguments).output
      let end = help.suffix(from: try #require(help.range(of: "EXAMPLES:")?.lowerBound)).split(separator: "\n")
      #expect(end.filter { $0.hasPrefix("    nibble ") }.count == 2 && end.last?.hasPrefix("    nibble " + verb) == true)
    }
  }

  @Test("no verb is without examples")
  func complete() {
    func verbs(_ command: any ParsableCommand.Type, _ path: String) -> [String] {
      command.configuration.subcommands.filter { $0.configuration.shouldDisplay }.flatMap { sub -> [String] in
        let name = path + (sub.configuration.commandName ?? "")
        return sub.configuration.subcommands.isEmpty ? [name] : verbs(sub, name + " ")
      }
    }
    #expect(verbs(Nibble.self, "").sorted() == Examples.all.map(\.key).sorted())
  }

  @Test("codecs in help are those there are")
  func codecs() throws {
    for verb in ["quantize", "merge"] {
      let help = try Program.run([verb, "--help"]).output
      for codec in Codecs.packing { #expect(help.contains(codec.name)) }
    }
  }

  @Test("each example works", arguments: Examples.all.map(\.key))
  func work(_ verb: String) throws {
    for example in Examples.of(verb).flatMap(\.examples) {
      let folder = try ExampleFolder.copy()
      let result = try folder.shell(example.command)
      #expect(result.code == 0, "\(example.command): \(result.errors)")
    }
  }
}

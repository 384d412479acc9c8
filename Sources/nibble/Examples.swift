import ArgumentParser
import NibbleCore

/// Commands to copy: two a verb. They end its help and its manual page, and the tests run each of them.
enum Examples {
  /// What the files are called in all of them.
  static let names = """
    MODEL is a Hugging Face folder or ORG/NAME in the local cache, model.nbl a block file, adapter a PEFT folder, \
    rows.jsonl and text.txt are data.
    """

  /// By verb: what a command does, and the command.
  static let all: KeyValuePairs<String, [(purpose: String, command: String)]> = [
    "quantize": [
      ("Pack a model to NF4 with double quantization:", "nibble quantize MODEL -o model.nbl"),
      ("Write the bitsandbytes layout that transformers loads:", "nibble quantize MODEL -o model-bnb --format bnb"),
    ],
    "calibrate": [
      ("Write down what layers take on a text:", "nibble calibrate MODEL --data text.txt -o statistics.safetensors"),
      ("The same on text the model writes, energies only:", "nibble calibrate MODEL --diagonal --tokens 256 -o energies.safetensors"),
    ],
    "dequantize": [
      ("Restore a Hugging Face folder in the model's own types:", "nibble dequantize model.nbl -o plain"),
      ("The same in bfloat16:", "nibble dequantize model.nbl -o plain --dtype bf16"),
    ],
    "convert": [
      ("Hand a block file to transformers, codes unchanged:", "nibble convert model.nbl -o model-bnb --format bnb"),
      ("Compress it for a download:", "nibble convert model.nbl -o small.nbl --compress zstd"),
    ],
    "ship": [
      ("Write what Ollama and llama.cpp load, and measure it:", "nibble ship MODEL -o shipped --for ollama,llama.cpp --data text.txt"),
      ("The same of a merged adapter:", "nibble ship MODEL --adapter adapter -o shipped-adapter --for llama.cpp"),
    ],
    "plan": [
      ("See what packing takes before it runs:", "nibble plan quantize MODEL"),
      ("The same for a merge:", "nibble plan merge MODEL adapter"),
    ],
    "inspect": [
      ("List the tensors of a file:", "nibble inspect model.nbl -v"),
      ("Read the values too:", "nibble inspect MODEL --stats"),
    ],
    "verify": [
      ("Check every byte of a block file:", "nibble verify model.nbl"),
      ("Check several things at once:", "nibble verify model.nbl MODEL adapter"),
    ],
    "diff": [
      ("Measure what packing changed:", "nibble diff MODEL model.nbl"),
      ("Compare two adapters:", "nibble diff adapter other-adapter"),
    ],
    "why": [
      ("See which packed tensors cost most:", "nibble why MODEL model.nbl --data text.txt"),
      ("See what would be left if the dearest three were not packed:", "nibble why MODEL model.nbl --data text.txt --top 3"),
    ],
    "hash": [
      ("Print the identity of a file's contents:", "nibble hash model.nbl"),
      ("See whether two layouts hold the same weights:", "nibble hash model.nbl model-bnb"),
    ],
    "generate": [
      ("Continue a text:", "nibble generate model.nbl -p 'Once upon a time'"),
      (
        "Attach an adapter and draw tokens at random:",
        "nibble generate model.nbl --adapter adapter -p 'First Citizen:' --temperature 0.8 --seed 1"
      ),
    ],
    "evaluate": [
      ("Measure perplexity, and the distance to the original:", "nibble evaluate model.nbl text.txt --compare-to MODEL"),
      ("Measure the loss of answers:", "nibble evaluate model.nbl rows.jsonl --task lm"),
    ],
    "tokenize": [
      ("Turn text into ids:", "nibble tokenize --tokenizer MODEL 'Once upon a time'"),
      ("Turn ids into text:", "nibble tokenize --tokenizer model.nbl --decode 1 403 407 261 378"),
    ],
    "forward": [
      ("Write the logits for ids of your own:", "nibble forward model.nbl ids.safetensors -o logits.safetensors"),
      ("The same with an adapter:", "nibble forward model.nbl ids.safetensors --adapter adapter -o logits.safetensors"),
    ],
    "finetune": [
      ("Train a LoRA adapter on a packed model:", "nibble finetune model.nbl rows.jsonl -o my-adapter"),
      (
        "Choose rank, rate and length of training:",
        "nibble finetune model.nbl rows.jsonl -o my-adapter --lora-r 16 --learning-rate 1e-4 --max-steps 2"
      ),
    ],
    "sweep": [
      ("See what a plan would run, and what it needs:", "nibble sweep plan.yaml --dry-run"),
      ("Run it, with one of its variables set:", "nibble sweep plan.yaml -o swept --set STEPS=3"),
    ],
    "report": [
      ("Write a page of what a sweep found:", "nibble report swept"),
      ("The same of one run of training:", "nibble report trained -o trained.html"),
    ],
    "merge": [
      ("Merge an adapter into the original model:", "nibble merge MODEL adapter -o merged"),
      (
        "Merge into a packed file, and keep in 8 bits what 4 bits would lose:",
        "nibble merge model.nbl adapter -o merged.nbl --when-lost promote"
      ),
    ],
    "unmerge": [
      ("Take an adapter out of a float model:", "nibble unmerge merged adapter -o before"),
      ("Take a merge back bit for bit:", "nibble unmerge merged.nbl --undo undo.patch -o before.nbl"),
    ],
    "patch": [
      ("Keep the difference of two block files:", "nibble patch model.nbl task.nbl -o task.patch"),
      ("The same with flags:", "nibble patch --from model.nbl --to task.nbl -o task.patch"),
    ],
    "swap": [
      ("Turn one file into the other, in place:", "nibble swap model.nbl task.patch"),
      ("Write the other file beside it:", "nibble swap model.nbl task.patch -o task.nbl"),
    ],
    "adapter inspect": [
      ("Show ranks and norms:", "nibble adapter inspect adapter"),
      ("Show what a merge into a base would keep:", "nibble adapter inspect adapter --base model.nbl"),
    ],
    "adapter check": [
      ("See what vLLM will refuse, or compute otherwise:", "nibble adapter check adapter --for vllm"),
      ("All programs, with the base's names and layers:", "nibble adapter check adapter --base model.nbl"),
    ],
    "adapter combine": [
      ("Add two adapters, weighted:", "nibble adapter combine adapter:0.7 other-adapter:0.3 -o both"),
      (
        "Combine them as TIES does:",
        "nibble adapter combine adapter other-adapter -o both --method ties --density 0.5"
      ),
    ],
    "adapter extract": [
      ("Make an adapter of a tuned model:", "nibble adapter extract MODEL tuned --rank 8 -o extracted"),
      ("Keep 95 % of each change:", "nibble adapter extract MODEL tuned --rank 32 --energy 0.95 -o extracted"),
    ],
    "adapter resize": [
      ("Lower the rank:", "nibble adapter resize adapter --rank 4 -o smaller"),
      ("Keep 90 % of each change:", "nibble adapter resize adapter --rank 8 --energy 0.9 -o smaller"),
    ],
    "adapter convert": [
      ("Write a GGUF file for llama.cpp:", "nibble adapter convert adapter --base MODEL -o adapter.gguf"),
      ("Write a folder for mlx-lm:", "nibble adapter convert adapter --to mlx -o adapter-mlx"),
    ],
    "doctor": [
      ("Describe the machine and the build, for a bug report:", "nibble doctor"),
      ("The same for a program:", "nibble doctor --json"),
    ],
    "examples": [
      ("Show what to type for a verb:", "nibble examples merge"),
      ("Show all examples:", "nibble examples"),
    ],
  ]

  /// The examples of `verb`, or of the verbs below it.
  static func of(_ verb: String) -> [(verb: String, examples: [(purpose: String, command: String)])] {
    all.filter { verb.isEmpty || $0.key == verb || $0.key.hasPrefix(verb + " ") }.map { ($0.key, $0.value) }
  }

  /// What `--help` ends with.
  static func help(_ verb: String) -> String {
    let examples = verb.isEmpty ? of("quantize") + of("generate") : of(verb)
    guard !examples.isEmpty else { return "" }
    let few = examples.count == 1 ? examples[0].examples : examples.map { $0.examples[0] }.prefix(5).map { $0 }
    return "\nEXAMPLES:\n" + few.map { "  \($0.purpose)\n    \($0.command)\n" }.joined()
  }
}

struct ExamplesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "examples", abstract: "Print examples of a verb, or of all.", usage: "nibble examples [VERB]")

  @Argument(help: "The verb, such as merge or adapter inspect.") var verb: [String] = []

  func run() throws {
    let name = verb.joined(separator: " ")
    let found = Examples.of(name)
    guard !found.isEmpty else {
      let suggestion = Suggestion.of(name, among: Examples.all.map(\.key)).map { "; did you mean \($0)?" } ?? ""
      throw NibbleError.usage("no examples for \(quoted(name))\(suggestion)")
    }
    try StandardOutput.print("# " + Examples.names)
    for (verb, examples) in found {
      try StandardOutput.print("\n\(verb)")
      for example in examples { try StandardOutput.print("  # \(example.purpose.dropLast())\n  \(example.command)") }
    }
  }
}

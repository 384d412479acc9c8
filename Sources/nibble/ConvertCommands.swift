import ArgumentParser
import NibbleCore
import NibbleFormats
import NibbleQuant

struct DequantizeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dequantize", abstract: "Unpack tensors into a Hugging Face folder.")

  @Argument(help: "The checkpoint.") var input: String
  @OptionGroup var write: WriteOptions
  @OptionGroup var common: CommonOptions

  @Flag(help: "Allow NaN and infinite values, which otherwise stop with exit code 6.")
  var allowNonfinite = false

  @Option(help: "Type of every float tensor: bf16, fp16, fp32 (default: the type each tensor had).")
  var dtype: String?

  func run() throws {
    let type = try dtype.map { try DType(flag: $0) }
    let spec = try write.spec(nil, orElse: .safetensors)
    let job = try StreamJob.dequantize(try Checkpoint.open(input), dtype: type, to: spec)
    try write.run(job, common, verb: "dequantize", allowNonfinite: allowNonfinite)
  }
}

extension DType {
  /// Reads the value of `--dtype`.
  init(flag: String) throws {
    guard case .cast(let known)? = CodecChoice(flag) else {
      throw NibbleError.usage("--dtype \(quoted(flag)) is not bf16, fp16 or fp32")
    }
    self = known
  }
}

struct ConvertCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "convert", abstract: "Convert between containers without changing a code or a value.")

  @Argument(help: "The checkpoint.") var input: String
  @OptionGroup var write: WriteOptions
  @OptionGroup var common: CommonOptions

  @Option(help: "nbl, bnb, compressed-tensors, gptq, mlx, onnx (weights for MatMulBnb4), gguf, safetensors (default: by the ending of OUT).")
  var format: OutputFormat?

  @OptionGroup var gguf: GgufFlags

  @Option(help: ArgumentHelp("Compress the block file: none, zstd or zstd:LEVEL.", valueName: "method"))
  var compress = "none"

  func run() throws {
    let source = try Checkpoint.open(input)
    var spec = try write.spec(format, orElse: source.folderFormat, gguf: gguf.options(for: source, threads: common.workers))
    if format == nil, !write.dryRun, !spec.path.lowercased().hasSuffix(".nbl"), !spec.isSingleFile {
      throw NibbleError.usage("--format is needed: \(spec.path) has none of the endings .nbl, .gguf and .safetensors")
    }
    spec.compression = try CompressionChoice(flag: compress, spec.format)
    try write.run(try StreamJob.convert(source, to: spec), common, verb: "convert")
  }
}

struct PlanCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "plan",
    abstract: "Print what a verb would write and need: bytes, bits per weight, peak memory.",
    usage: "nibble plan [quantize|dequantize|convert|merge|finetune] <arguments of that verb>")

  @Argument(parsing: .captureForPassthrough, help: "The verb (default: quantize) and its arguments.")
  var words: [String] = []

  func run() throws {
    if words.isEmpty || words.contains("--help") || words.contains("-h") { throw CleanExit.helpRequest(self) }
    let verbs: Set = ["quantize", "dequantize", "convert", "merge", "fuse", "export-lora", "unmerge", "finetune"]
    let rest = words.contains("--dry-run") ? words : words + ["--dry-run"]
    var command = try Nibble.parse(verbs.contains(words[0]) ? rest : ["quantize"] + rest)
    try command.run()
  }
}

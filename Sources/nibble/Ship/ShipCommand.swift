import ArgumentParser
import Glibc
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleTemplates
import NibbleTokenizers

struct ShipCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ship",
    abstract: "Write what each program loads of a model, with a passport: format, size, divergence from the original, what was refused and why.",
    discussion: """
      Programs: vllm (compressed-tensors), ollama (GGUF and a Modelfile), llama.cpp (GGUF), mlx, bnb. Adapters are merged first. Each is \
      made by one run of 'nibble quantize', which the passport repeats; codes are chosen with --calibration, or with a text the model writes \
      itself, which takes minutes. What a program cannot hold is refused by itself; the others are \
      made, and the exit code is that of the refusal. With --data, every file is read again and compared with the original. A run that is \
      interrupted, or finds the disk full, leaves the programs that are finished, and no passport.
      """)

  @Argument(help: "The model: a Hugging Face folder, an .nbl file.") var model: String
  @Option(name: .customLong("adapter"), parsing: .singleValue, help: ArgumentHelp("Merge an adapter first; may be repeated.", valueName: "DIR[:WEIGHT]"))
  var adapters: [String] = []
  @Option(name: .customLong("for"), help: ArgumentHelp("The programs, with commas between (default: all).", valueName: "PROGRAMS")) var programs: String?
  @Option(name: .shortAndLong, help: "The folder to write: one folder a program, and passport.md, passport.json.") var output: String
  @Flag(help: "Replace what was shipped there before.") var force = false
  @Option(help: ArgumentHelp("A text to compare on: a text file, JSON Lines.", valueName: "FILE")) var data: String?
  @Option(help: "Tokens per window of that text.") var context = 512
  @Option(parsing: .singleValue, help: ArgumentHelp("A text to choose codes with, where the format has codes to choose; may be repeated.", valueName: "FILE"))
  var calibration: [String] = []
  @Option(help: "Tokens of it to take.") var calibrationTokens: Int?
  @Option(parsing: .singleValue, help: ArgumentHelp("Leave the tensors whose name matches in 16 bits; may be repeated.", valueName: "REGEX"))
  var keep: [String] = []
  @Option(help: "The type of GGUF files (default: q4_k_m; q8_0 of a packed model).") var ggufType: String?
  @OptionGroup var common: CommonOptions

  private var folder: String { output.withoutTrailingSlashes }

  func validate() throws {
    guard !output.isEmpty else { throw ValidationError("--output is empty") }
    guard context > 1 else { throw ValidationError("--context must be at least 2") }
    for pattern in keep { _ = try Pattern(pattern) }
    if let ggufType, !GgufOptions.typeNames.contains(ggufType.lowercased()) {
      throw ValidationError("--gguf-type \(oneLine(ggufType)) is none of \(GgufOptions.typeNames.joined(separator: ", "))")
    }
  }

  func run() throws {
    let targets = try programs.map { try ShipTarget.named($0) } ?? ShipTarget.all
    let source = try Checkpoint.open(model)
    if !source.packed.isEmpty, !calibration.isEmpty {
      common.warn([Warning(.unused, "--calibration: ignored, the codes of \(path: model) are chosen already")])
    }
    _ = try adapters.isEmpty ? [] : WeightedAdapters.open(adapters)
    for path in [data].compactMap({ $0 }) + calibration { _ = try InputFile(path) }
    let isNew = PathKind(folder) == .nothing
    guard isNew || force && PathKind(folder) == .folder else {
      throw NibbleError.usage(force ? "\(path: folder) is no folder" : "\(path: folder) exists; \(.force) replaces what was shipped there")
    }
    if isNew, mkdir(folder, 0o777) != 0 { throw NibbleError.cannotWrite("\(path: folder): \(errorText(errno))") }
    if !isNew { try clear(targets) }
    do {
      let passport = try ship(targets, source)
      let stream = passport.json
      try TextFile.write(passport.markdown, to: folder + "/passport.md", force: true)
      try TextFile.write(String(decoding: stream.fileBytes, as: UTF8.self), to: folder + "/passport.json", force: true)
      if common.json { try StandardOutput.print(stream) } else { try StandardOutput.write(passport.markdown) }
      try StandardOutput.flush()
      for (what, failed) in [("made", passport.entries.filter { $0.refusal != nil }), ("compared", passport.entries.filter { $0.refusal == nil && $0.code != 0 })] {
        guard let first = failed.first else { continue }
        throw NibbleError(
          NibbleError.Kind(rawValue: first.code) ?? .failed,
          "\(path: folder): not \(what) for \(failed.map(\.target.name).joined(separator: ", ")); the passport says why")
      }
    } catch {
      if isNew { rmdir(folder) }
      throw error
    }
  }

  /// The merged model, while this runs; a file where the base is packed.
  private var mergedNames: [String] { [folder + "/.merged", folder + "/.merged.nbl"] }

  /// Takes away what an earlier run left behind that this one will not replace.
  private func clear(_ targets: [ShipTarget]) throws {
    // A passport would speak of files that are about to change.
    for name in ["passport.md", "passport.json"] { unlink(folder + "/" + name) }
    for path in mergedNames { Self.remove(path) }
    // Such as what a killed run was writing.
    for name in try namesInFolder(folder) where name.hasPrefix(".") && name.hasSuffix(".nibble-partial") { Self.remove(folder + "/" + name) }
    for target in ShipTarget.all where !targets.contains(where: { $0.name == target.name }) && PathKind(folder + "/" + target.name) != .nothing {
      common.warn([Warning(.unused, "\(path: folder + "/" + target.name) is of an earlier run; the passport does not speak of it")])
    }
  }

  private func ship(_ targets: [ShipTarget], _ source: Checkpoint) throws -> Passport {
    var from = model
    defer { for path in mergedNames { Self.remove(path) } }
    if !adapters.isEmpty {
      say("merging \(adapters.map(oneLine).joined(separator: ", "))")
      from = mergedNames[source.packed.isEmpty ? 0 : 1]
      let words = ["merge", "--base", model] + adapters.flatMap { ["--adapter", $0] } + ["-o", from, "--force", "-q"]
      let done = try OwnProgram(words + threads)
      guard done.code == 0 else { throw done.error }
    }
    var passport = Passport(model: model, adapters: adapters, data: data, entries: [])
    for target in targets {
      try Interrupt.check()
      say(target.name)
      passport.entries.append(try make(target, from, source))
    }
    return passport
  }

  private func make(_ target: ShipTarget, _ from: String, _ source: Checkpoint) throws -> Passport.Entry {
    let place = folder + "/" + target.name, path = target.file.isEmpty ? place : place + "/" + target.file
    var words = target.words(!source.packed.isEmpty)
    if let ggufType, let at = words.firstIndex(of: "--gguf-type") { words[at + 1] = ggufType }
    words += keep.flatMap { ["--keep", $0] }
    if !words.contains("--gguf-type"), source.packed.isEmpty {
      words += calibration.flatMap { ["--calibration", $0] }
      if !calibration.isEmpty, let calibrationTokens { words += ["--calibration-tokens", String(calibrationTokens)] }
    }
    let typed = ["nibble", "quantize", adapters.isEmpty ? model : "MERGED", "-o", target.name + (target.file.isEmpty ? "" : "/" + target.file)] + words
    var entry = Passport.Entry(target: target, loads: target.loads(source.config), command: typed.map(oneLine).joined(separator: " "))
    if !target.file.isEmpty, PathKind(place) == .nothing, mkdir(place, 0o777) != 0 {
      throw NibbleError.cannotWrite("\(path: place): \(errorText(errno))")
    }
    var done: OwnProgram?
    // Only whole: an earlier run's file, too, would not be what this passport speaks of.
    defer { if done?.code != 0 { discard(target, place) } }
    // Before the model, which cannot be used without it.
    let notes = target.hasModelfile ? try writeModelfile(place, source) : []
    done = try OwnProgram(["quantize", from, "-o", path, "--force", "--json"] + words + threads)
    guard let done, done.code == 0 else {
      guard let done, done.isRefusal else { throw done?.error ?? NibbleError(.failed, "quantize did not run") }
      (entry.refusal, entry.code) = (done.reason, done.code)
      return entry
    }
    entry.report = try JSON.parse(Array(done.output.utf8))
    entry.warnings = (entry.report["warnings"]?.array?.compactMap { $0.string ?? $0["text"]?.string } ?? []) + notes
    if let data {
      let compared = ["evaluate", "--base", path, "--data", data, "--context", String(context), "--compare-to", model]
        + adapters.flatMap { ["--compare-adapter", $0] }
      let found = try OwnProgram(compared + ["--json", "-q"] + threads)
      if found.code == 0, let comparison = try? JSON.parse(Array(found.output.utf8)) {
        entry.comparison = comparison
      } else {
        (entry.notCompared, entry.code) = (found.reason, found.code == 0 ? NibbleError.Kind.failed.rawValue : found.code)
      }
    }
    entry.bytes = Self.bytes(of: place)
    return entry
  }

  /// - Returns: what there is to know of it
  private func writeModelfile(_ place: String, _ source: Checkpoint) throws -> [String] {
    let files = try source.contents(ofSmallFiles: ChatTemplates.fileNames)
    let templates = try? ChatTemplates(files: files, place: model)
    let tokenizer = try? Tokenizer(files: source.contents(ofSmallFiles: Tokenizer.fileNames), place: model)
    let mark = (try? tokenizer?.encode("").ids)?.first.flatMap { tokenizer?.token($0) }
    let found = templates.flatMap { OllamaTemplate($0, mark: mark) }
    try TextFile.write(OllamaTemplate.modelfile(found), to: place + "/Modelfile", force: true)
    guard found == nil else { return [] }
    return [
      templates == nil
        ? "the model has no chat template, and the Modelfile none"
        : "the chat template is more than beginnings and ends of messages; the Modelfile has none, and Ollama goes by the file's own"
    ]
  }

  private var threads: [String] { common.threads.map { ["--threads", String($0)] } ?? [] }

  private func say(_ text: String) { if !common.quiet, !common.json { write("nibble: \(text)\n", to: 2) } }

  /// Takes away what lies in a program's place, if it is nothing but what these verbs write.
  private func discard(_ target: ShipTarget, _ place: String) {
    if target.file.isEmpty {
      try? StagedOutput(place, .folder(owns: ModelFileNames.isOurs), force: true).publish()
    } else {
      for name in [target.file, "Modelfile"] { unlink(place + "/" + name) }
    }
    if PathKind(place) != .nothing, rmdir(place) != 0 {
      common.warn([Warning(.unused, "\(path: place) is of an earlier run; the passport does not speak of it")])
    }
  }

  private static func bytes(of path: String) -> Int {
    ((try? namesInFolder(path)) ?? []).reduce(0) { sum, name in
      var status = stat()
      return sum + (lstat(path + "/" + name, &status) == 0 && status.st_mode & S_IFMT == S_IFREG ? Int(status.st_size) : 0)
    }
  }

  /// A file, or a folder of files and folders of files.
  private static func remove(_ path: String) {
    guard PathKind(path) != .nothing, unlink(path) != 0 else { return }
    for name in (try? namesInFolder(path)) ?? [] { remove(path + "/" + name) }
    rmdir(path)
  }
}

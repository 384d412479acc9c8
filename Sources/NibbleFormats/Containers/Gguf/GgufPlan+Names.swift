import NibbleCore
import NibbleQuant

/// What a file says of its model beside numbers.
extension GgufPlan {
  /// What a model is called that lies there.
  static func name(of path: String) -> String {
    let last = path.withoutTrailingSlashes.split(separator: "/").last.map(String.init) ?? "model"
    let plain = last.split(separator: "@").first.map(String.init) ?? last
    return [".nbl", ".safetensors", ".gguf"].first { plain.lowercased().hasSuffix($0) }.map { String(plain.dropLast($0.count)) } ?? plain
  }

  /// Names of the classes of a head, in the order of its rows; nil where there is no head and the configuration has no names.
  static func labels(_ config: JSON, _ job: StreamJob, hasHead: Bool) throws -> [String]? {
    guard ["bert", "modern-bert"].contains(LlamaCppNames.of(modelType: config["model_type"]?.string ?? "")?.architecture) else { return nil }
    let named = (config["id2label"]?.members ?? []).compactMap { key, value in Int(key).flatMap { id in value.string.map { (id, $0) } } }
    let labels = named.sorted { $0.0 < $1.0 }.map(\.1)
    guard hasHead else { return labels.isEmpty || labels.count == 2 && labels[0] == "LABEL_0" ? nil : labels }
    let rows = job.items.first { $0.source.name.text.hasSuffix("classifier.weight") || $0.source.name.text.hasSuffix("classifier.out_proj.weight") }?.source.logicalShape.first ?? labels.count
    return labels.count == rows ? labels : (0..<rows).map { "LABEL_\($0)" }
  }

  /// How sentence-transformers pools the states of a model: llama.cpp's number; nil where nothing says.
  static func pooling(_ source: Checkpoint, _ text: TokenizerText, _ llamaCpp: LlamaCppNames) throws -> UInt32? {
    guard ["bert", "modern-bert", "qwen2", "qwen3"].contains(llamaCpp.architecture), let modules = try text.json("modules.json")?.array,
      let path = modules.first(where: { $0["type"]?.string?.hasSuffix("Pooling") == true })?["path"]?.string
    else { return nil }
    let name = path + "/config.json"
    guard let bytes = try source.contents(ofSmallFiles: [name])[name], let config = try? JSON.parse(bytes) else { return nil }
    for (key, mode, number) in [
      ("pooling_mode_mean_tokens", "mean", 1), ("pooling_mode_cls_token", "cls", 2), ("pooling_mode_lasttoken", "lasttoken", 3),
    ] where config[key]?.bool == true || config["pooling_mode"]?.string == mode {
      return UInt32(number)
    }
    throw NibbleError.usage("\(path: source.path): \(subject: name) pools in a way that llama.cpp does not have; mean, cls and lasttoken are known")
  }

  func preTokenizer(_ job: StreamJob) throws -> String? {
    let source = job.source
    guard let name = job.output.gguf.preTokenizer else {
      // What the file that it is made of says.
      return source.container == .gguf ? try source.files.first.flatMap { try GgufFile($0).text("tokenizer.ggml.pre") } : nil
    }
    guard LlamaCppPreTokenizer.names.contains(name) || name == "default" else {
      throw NibbleError.usage("\(.ggufPre, name) is none of llama.cpp's: default, \(LlamaCppPreTokenizer.names.sorted().joined(separator: ", "))")
    }
    return name
  }
}

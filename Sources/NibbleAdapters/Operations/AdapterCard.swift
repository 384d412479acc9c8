import NibbleCore
import NibbleFormats

/// The model card beside an adapter: the fields Hugging Face's hub reads, and how to use it.
struct AdapterCard {
  let config: JSON
  let binding: AdapterBinding?
  /// Numbers in all tensors.
  let parameters: Int
  /// Whether it is laid out for mlx-lm.
  var isMLX = false

  private var baseName: String? { (isMLX ? config["model"] : config["base_model_name_or_path"])?.string }

  /// The base, if that is a published model and not a path of this machine.
  private var published: String? { baseName.flatMap { ModelOrigin.isPublished($0) && PathKind($0) == .nothing ? $0 : nil } }

  private var peftConfig: AdapterConfig? { isMLX ? nil : try? AdapterConfig(config, place: "") }

  private var method: String {
    if isMLX { return MLXLayout.methodName(config) ?? LoRA.name }
    return peftConfig?.methodName ?? LoRA.name
  }

  private var isInPEFT: Bool { peftConfig?.method.isInPEFT ?? true }

  private var task: (pipeline: String, loader: String)? {
    switch config["task_type"]?.string {
    case "CAUSAL_LM": ("text-generation", "AutoPeftModelForCausalLM")
    case "SEQ_CLS": ("text-classification", "AutoPeftModelForSequenceClassification")
    default: nil
    }
  }

  var text: String { (header + [""] + summary + usage).joined(separator: "\n") + "\n" }

  private var header: [String] {
    var lines = ["---"]
    if let published { lines.append("base_model: \(JSON(published).text())") }
    if isMLX || isInPEFT { lines.append("library_name: \(isMLX ? "mlx" : "peft")") }
    if let task { lines.append("pipeline_tag: \(task.pipeline)") }
    var tags = ["lora", "nibble"]
    if !isMLX { tags.append("transformers") }
    if let published { tags.insert("base_model:adapter:\(published)", at: 0) }
    return lines + ["tags:"] + tags.map { "- \(JSON($0).text())" } + ["---"]
  }

  private var summary: [String] {
    var lines = ["# A \(method) adapter", ""]
    if let published {
      let revision = config["revision"]?.string.map { ", revision `\(oneLine($0))`" } ?? ""
      lines.append("* Base model: [\(published)](https://huggingface.co/\(published))\(revision)")
    }
    if let binding {
      let packing = binding.packing.map { ", packed as `\(oneLine($0))`" } ?? ""
      lines.append("* Content identity of the base it was made for: `\(binding.source ?? binding.base)`\(packing)")
    }
    let numbers = [("r", "rank"), ("lora_alpha", "alpha")].compactMap { key, name in
      (config[key]?.int.map { JSON($0) } ?? config[key]?.double.map { JSON($0) }).map { "\(name) \($0.text())" }
    }
    lines.append("* \((numbers + ["\(parameters) parameters"]).joined(separator: ", "))")
    let targets = (config["target_modules"]?.array ?? []).compactMap(\.string)
    if !targets.isEmpty {
      let more = targets.count > 12 ? " and \(targets.count - 12) more" : ""
      lines.append("* Adapted modules: \(targets.prefix(12).map { "`\(oneLine($0))`" }.joined(separator: ", "))\(more)")
    }
    return lines + ["", "Written by nibble \(nibbleVersion)."]
  }

  private var usage: [String] {
    guard isInPEFT else {
      return [
        "", "## Use", "",
        "PEFT does not have \(method). `nibble adapter convert PATH -o OUT` writes the same change as a plain LoRA adapter that it loads; "
          + "nibble attaches it as it is (`nibble generate`, `nibble evaluate`) or merges it (`nibble merge MODEL PATH`).",
      ]
    }
    guard !isMLX, let task else { return [] }
    let model =
      published == nil
      ? ["from peft import PeftModel", "", "# base: the transformers model this adapter was made for", "model = PeftModel.from_pretrained(base, \"PATH\")"]
      : ["from peft import \(task.loader)", "", "model = \(task.loader).from_pretrained(\"PATH\")"]
    return ["", "## Use", "", "With PEFT:", "", "```python"] + model
      + ["```", "", "nibble attaches it to a packed model (`nibble generate`, `nibble evaluate`) or merges it (`nibble merge MODEL PATH`)."]
  }
}

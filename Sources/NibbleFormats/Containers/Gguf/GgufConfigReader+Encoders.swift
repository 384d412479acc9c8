import NibbleCore

extension GgufConfigReader {
  mutating func addGPT2() throws {
    let width = try needed("embedding_length"), context = try rows("position_embd.weight") ?? needed("context_length")
    _ = try whole("context_length")
    set("architectures", JSON(["GPT2LMHeadModel"]))
    set("n_embd", width)
    set("n_layer", try layerCount())
    set("n_head", try needed("attention.head_count"))
    set("n_positions", context)
    set("n_ctx", context)
    if let inner = try whole("feed_forward_length"), inner != 4 * width { set("n_inner", inner) }
    set("layer_norm_epsilon", try decimal("attention.layer_norm_epsilon"))
    set("activation_function", "gelu_new")
    set("tie_word_embeddings", .bool(tensors["output.weight"] == nil))
  }

  mutating func addEncoder(_ type: String) throws {
    let isBert = type == "bert"
    let left = isBert ? 0 : LlamaCppNames.positionsLeftOut(.object(members)) ?? 0
    let context = try rows("position_embd.weight") ?? needed("context_length")
    _ = try whole("context_length")
    let (positions, overflow) = context.addingReportingOverflow(left)
    guard !overflow else { throw fail("\(architecture).context_length", "a length") }
    let prefix = ["bert": "Bert", "roberta": "Roberta"][type] ?? "XLMRoberta"
    let isClassifier = tensors["cls.output.weight"] != nil
    set("architectures", JSON([prefix + (isClassifier ? "ForSequenceClassification" : "Model")]))
    set("hidden_size", try needed("embedding_length"))
    set("intermediate_size", try needed("feed_forward_length"))
    set("num_hidden_layers", try layerCount())
    set("num_attention_heads", try needed("attention.head_count"))
    set("max_position_embeddings", positions)
    set("layer_norm_eps", try decimal("attention.layer_norm_epsilon"))
    set("type_vocab_size", rows("token_types.weight") ?? 1)
    set("hidden_act", "gelu")
    try addClasses(isClassifier)
    _ = key("pooling_type")
    expectNotCausal()
  }

  private mutating func addClasses(_ isClassifier: Bool) throws {
    let labels = key("classifier.output_labels")
    if isClassifier, file.metadata[labels] != nil {
      let names = try file.texts(labels)
      set("id2label", .object((0..<names.count).map { (String($0), JSON(String(decoding: names[$0], as: UTF8.self))) }))
      set("label2id", .object((0..<names.count).map { (String(decoding: names[$0], as: UTF8.self), JSON($0)) }))
    } else if isClassifier {
      set("num_labels", rows("cls.output.weight"))
    }
  }

  mutating func addDistilBert() throws {
    set("architectures", JSON(["DistilBertModel"]))
    set("dim", try needed("embedding_length"))
    set("hidden_dim", try needed("feed_forward_length"))
    set("n_layers", try layerCount())
    set("n_heads", try needed("attention.head_count"))
    set("max_position_embeddings", try rows("position_embd.weight") ?? needed("context_length"))
    _ = try whole("context_length")
    set("activation", "gelu")
    // transformers has no other for the model.
    if let epsilon = try decimal("attention.layer_norm_epsilon"), epsilon != 1e-12 { used.remove("\(architecture).attention.layer_norm_epsilon") }
    _ = key("pooling_type")
    expectNotCausal()
  }

  mutating func addModernBert() throws {
    let isClassifier = tensors["cls.output.weight"] != nil, layers = try layerCount()
    set("architectures", JSON([isClassifier ? "ModernBertForSequenceClassification" : "ModernBertModel"]))
    set("hidden_size", try needed("embedding_length"))
    set("intermediate_size", try needed("feed_forward_length"))
    set("num_hidden_layers", layers)
    set("num_attention_heads", try needed("attention.head_count"))
    set("max_position_embeddings", try needed("context_length"))
    let rms = try decimal("attention.layer_norm_rms_epsilon")
    set("norm_eps", try decimal("attention.layer_norm_epsilon") ?? rms)
    set("hidden_activation", JSON(try text("hidden_activation") ?? "gelu"))
    set("local_attention", try needed("attention.sliding_window"))
    let said = try whole("attention.sliding_window_pattern"), every = said ?? 3
    guard every > 0 else { throw fail("\(architecture).attention.sliding_window_pattern", "a whole number above 0") }
    set("global_attn_every_n_layers", said)
    set("layer_types", JSON((0..<layers).map { $0 % every == 0 ? "full_attention" : "sliding_attention" }))
    let base = try decimal("rope.freq_base") ?? 10_000
    set("global_rope_theta", base)
    set("local_rope_theta", try decimal("rope.freq_base_swa") ?? base)
    if let kind = try text("rope.scaling.type"), kind != "none" { used.remove("\(architecture).rope.scaling.type") }
    try addClasses(isClassifier)
    set("classifier_pooling", try whole("classifier.pooling_type") == 2 ? "cls" : "mean")
    _ = key("pooling_type")
    _ = key("attention.head_count_kv")
    expectNotCausal()
  }
}

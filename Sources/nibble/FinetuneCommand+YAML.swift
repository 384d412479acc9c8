import NibbleCore

extension FinetuneCommand {
  private var scheduleYAML: [(String, JSON?)] {
    switch try? schedule() {
    case .cosineWithRestarts?: [("lr_cycles", JSON(lrCycles))]
    case .polynomial?: [("lr_power", JSON(lrPower)), ("lr_end", JSON(lrEnd))]
    case .warmupStableDecay?:
      [("lr_decay_steps", lrDecaySteps.map { JSON($0) }), ("lr_decay", JSON(lrDecay.rawValue)), ("lr_least", JSON(lrLeast))]
    default: []
    }
  }

  /// Every option as it was in force, as `--config` takes it.
  var yaml: String {
    func text(_ value: String) -> JSON { JSON(value) }
    // An adapter to train on brings its own.
    func own(_ value: JSON?) -> JSON? { initAdapter == nil ? value : nil }
    let entries: [(String, JSON?)] = [
      ("base", text(base)), ("data", text(data)), ("valid", valid.map(text)), ("init_adapter", initAdapter.map(text)),
      ("any_base", .bool(anyBase)),
      ("method", own(text(method.rawValue))), ("lora_r", own(JSON(rank))), ("lora_alpha", own(JSON(alpha))),
      ("merge_aware", .bool(mergeAware)),
      ("lora_dropout", JSON(loraDropout)), ("neftune_noise_alpha", neftuneNoiseAlpha == 0 ? nil : JSON(neftuneNoiseAlpha)),
      ("label_smoothing", labelSmoothing == 0 ? nil : JSON(labelSmoothing)),
      ("target_modules", own(text(targetModules))), ("modules_to_save", own(modulesToSave.map(text))),
      ("bias", own(text(bias.rawValue))),
      ("rank_pattern", own(rankPattern.isEmpty ? nil : JSON(rankPattern))),
      ("alpha_pattern", own(alphaPattern.isEmpty ? nil : JSON(alphaPattern))),
      ("method_option", own(methodOption.isEmpty ? nil : JSON(methodOption))),
    ] + (parts.yaml + starts.yaml + methods.yaml).map { ($0.0, own($0.1)) } + [
      ("num_labels", numLabels.map { JSON($0) }), ("labels", labels.map(text)), ("pooling", text(pooling.rawValue)),
      ("many_labels", .bool(manyLabels)), ("max_steps", maxSteps.map { JSON($0) }), ("epochs", JSON(epochs)),
      ("batch_size", JSON(batchSize)), ("gradient_accumulation_steps", JSON(gradientAccumulationSteps)),
      ("max_length", maxLength.map { JSON($0) }), ("doc_stride", docStride == 128 ? nil : JSON(docStride)),
      ("mlm_probability", mlmProbability == 0.15 ? nil : JSON(mlmProbability)), ("learning_rate", JSON(learningRate)), ("loraplus_ratio", JSON(loraplusRatio)),
      ("learning_rate_pattern", learningRatePattern.isEmpty ? nil : JSON(learningRatePattern)),
      ("lr_scheduler", (try? schedule()).map { text($0.rawValue) }), ("warmup_steps", warmupSteps.map { JSON($0) }),
      ("warmup_ratio", JSON(warmupRatio)), ("optimizer", (try? choice()).map { text($0.description) }), ("paged", .bool((try? choice())?.isPaged ?? false)), ("adam_beta1", JSON(beta1)),
      ("adam_beta2", beta2.map { JSON($0) }), ("adam_epsilon", JSON(epsilon)), ("momentum", JSON(momentum)),
      ("weight_decay", JSON(weightDecay)), ("no_decay", noDecay.isEmpty ? nil : JSON(noDecay)), ("max_grad_norm", JSON(maxGradNorm)), ("seed", JSON(seed)),
      ("no_shuffle", .bool(noShuffle)), ("group_by_length", .bool(groupByLength)), ("train_on_prompt", .bool(trainOnPrompt)),
      ("template", (template?.name).map(text)), ("train_on_turns", trainOnTurns == .all ? nil : text(trainOnTurns.rawValue)), ("break_marks", .bool(breakMarks)), ("add_tokens", .bool(addTokens)),
      ("eval_steps", evalSteps.map { JSON($0) }), ("save_steps", JSON(saveSteps)),
      ("save_total_limit", JSON(saveTotalLimit)), ("keep_best", .bool(keepBest)),
      ("early_stopping", earlyStopping.map { JSON($0) }),
      ("gradient_checkpointing", .bool(gradientCheckpointing)), ("compute_dtype", text(computeDtype.rawValue)),
    ]
    + scheduleYAML + images.yaml
    // What stands behind a key is JSON, which YAML takes as it is. A switch that is off is left out: its flag has no other way.
    return (entries + validation.yaml).compactMap { key, value in
      guard let value, value.bool != false else { return nil }
      return "\(key): \(value.text())\n"
    }.joined()
  }
}

import NibbleCore
import NibbleQuant

/// What a job's GGUF file holds beside the values of its tensors: names, forms, metadata. Made once, when the job is.
struct GgufPlan: Sendable {
  /// llama.cpp's names, by ours.
  private(set) var names: [ByteName: String] = [:]
  /// How the numbers of a tensor lie there, where that is not how they lie here.
  private(set) var forms: [ByteName: LlamaCppForm] = [:]
  /// Which expert a tensor is of those that one tensor holds there.
  private(set) var experts: [ByteName: Int] = [:]
  /// How many experts a layer has; 0 where there are none.
  var expertCount: Int { (experts.values.max() ?? -1) + 1 }
  /// Where each tensor of a model with experts stands in the file; of others they come by name.
  private(set) var places: [ByteName: Int] = [:]
  private var metadata = GgufMetadata()
  /// As the file has it.
  private(set) var encoded = EncodedMetadata(count: 0, bytes: [])
  /// Memory that reading the tokenizer took, which stays with the program.
  private(set) var memory = 0
  /// What LongRoPE multiplies queries and keys with.
  private var attentionFactor: Float?
  /// Tensors that Hugging Face's checkpoints do not have.
  private(set) var extra: [GgufLayout.Tensor] = []

  /// Settles what becomes of every tensor of a job.
  ///
  /// - Throws: `.usage` for what llama.cpp does not have, `.badInput` for a configuration or tokenizer that makes no sense
  init(_ job: inout StreamJob) throws {
    let source = job.source
    guard let config = source.llamaCppConfig, let modelType = config["model_type"]?.string else {
      throw NibbleError.usage("\(path: source.path): there is no config.json, from which a GGUF file says what the model is")
    }
    guard let llamaCpp = source.llamaCpp else {
      throw NibbleError.usage(
        "\(path: source.path): llama.cpp's names are known for \(LlamaCppNames.all.flatMap(\.modelTypes).sorted().joined(separator: ", ")), not for model_type \(quoted(modelType))"
      )
    }
    let numbers = HuggingFaceNumbers(config, modelType, place: source.path)
    let model = try ModelKeys(numbers, architecture: llamaCpp.architecture, place: source.path)
    try job.partExperts(llamaCpp)
    try job.partLatents(llamaCpp, numbers)
    let hasHead = llamaCpp.hasHead(job.items.map(\.source.name.text))
    try place(&job, llamaCpp, numbers, hasHead: hasHead)
    try stackExperts(job, numbers, llamaCpp)
    try checkWhole(job, numbers, llamaCpp)
    try addFactors(numbers, llamaCpp, model)
    let fileType = try settle(&job, numbers, llamaCpp)
    metadata["general.architecture"] = .text(llamaCpp.architecture)
    if let factor = attentionFactor { metadata[llamaCpp.architecture + ".rope.scaling.attn_factor"] = .f32(factor) }
    let weights = extra.reduce(0) { $0 + (elementCount(of: $1.shape) ?? 0) } + kept(job).reduce(0) { $0 + $1.target.storedCount(forms[$1.target.name]) }
    let text = try TokenizerText(try source.contents(ofSmallFiles: TokenizerText.names), place: source.path)
    // Tables of tokens, their texts and merges, and the metadata: measured on a tokenizer of 2 MB.
    memory = text.files.values.reduce(0) { $0 + $1.count } * 12
    let ofExperts = kept(job).reduce(0) { experts[$1.target.name] == nil || !$1.target.name.text.hasSuffix(".weight") ? $0 : $0 + $1.target.count }
    var card = ModelCard()
    do { card = try ModelCard(of: source.path) } catch let error as NibbleError {
      job.warnings.append(Warning(.metadata, "licence, languages and origin are left out: \(error)"))
    }
    var general = GeneralKeys(
      name: Self.name(of: source.path), source.config ?? config, card: card, generation: try text.json("generation_config.json"), weights: weights,
      experts: expertCount == 0 ? nil : (expertCount, ofExperts))
    if source.container == .gguf, let file = source.files.first { general.carried = try GeneralKeys.carried(from: GgufFile(file)) }
    try general.write(&metadata)
    try model.write(
      fileType: fileType, labels: try Self.labels(config, job, hasHead: hasHead), pooling: try Self.pooling(source, text, llamaCpp), &metadata)
    metadata["general.quantization_version"] = .u32(2)
    if let importance = job.output.gguf.importance { Self.write(importance, &metadata) }
    try TokenKeys(text, numbers, architecture: llamaCpp.architecture, preTokenizer: try preTokenizer(job)).write(&metadata)
    if case .texts(let tokens)? = metadata["tokenizer.ggml.tokens"] { try check(vocabulary: tokens.count, job) }
    if let odd = metadata.entries.first(where: { !$0.value.isFinite }) {
      throw NibbleError.badInput("\(path: source.path): its configuration makes \(key: odd.key) infinite or NaN")
    }
    (encoded, metadata) = (metadata.encoded, GgufMetadata())
    job.warnings += model.warnings + (try warnings(numbers))
  }

  func kept(_ job: StreamJob) -> [StreamJob.Item] { job.items.filter { $0.leftOut == nil } }

  // MARK: - Tensors

  /// Finds names and forms, and what is left out.
  private mutating func place(_ job: inout StreamJob, _ llamaCpp: LlamaCppNames, _ numbers: HuggingFaceNumbers, hasHead: Bool) throws {
    let path = job.source.path, further = try numbers.layersLeftOut(llamaCpp)
    struct Place: Hashable { let gguf: String, expert: Int }
    var taken: [Place: ByteName] = [:]
    var lost: [(reason: String, names: [String])] = []
    for index in job.items.indices {
      let source = job.items[index].source, name = source.name.text
      // As the converter has it for DeepSeek.
      let isTied = llamaCpp.latent != nil && name == "lm_head.weight" && numbers.config["tie_word_embeddings"]?.bool == true
      let isFurther = further.map { layers in llamaCpp.layer(of: name).map(layers.contains) ?? false } ?? false
      if let reason = isFurther ? "llama.cpp's files have no layers that predict further tokens" : isTied ? "the embedding is the head" : llamaCpp.reasonToDrop(name, hasHead: hasHead) {
        job.items[index].leftOut = reason
        if let at = lost.firstIndex(where: { $0.reason == reason }) { lost[at].names.append(name) } else { lost.append((reason, [name])) }
        continue
      }
      let expert = llamaCpp.expert(tensor: name)
      guard let gguf = expert?.gguf ?? llamaCpp.gguf(tensor: name) else {
        throw NibbleError.usage(
          "\(path: path): \(tensor: name) has no place in llama.cpp's \(quoted(llamaCpp.architecture)) models; \(job.output.format.rawValue) files hold only what llama.cpp loads"
        )
      }
      if let other = taken.updateValue(source.name, forKey: Place(gguf: gguf, expert: expert?.number ?? 0)) {
        throw NibbleError.badInput("\(path: path): \(tensor: name) and \(quoted(other.text)) are both llama.cpp's \(quoted(gguf))")
      }
      guard source.dtype.isFloat else {
        throw NibbleError.usage("\(path: path): \(tensor: name) is of \(source.dtype.rawValue); GGUF files hold float types and blocks")
      }
      guard source.count > 0, (1...4).contains(source.shape.count) else {
        throw NibbleError.usage("\(path: path): \(tensor: name) has the shape \(source.shape), which llama.cpp does not load")
      }
      names[source.name] = gguf
      experts[source.name] = expert?.number
      let form: LlamaCppForm
      do { form = try llamaCpp.form(gguf, numbers.config) } catch let error as NibbleError {
        throw NibbleError(error.kind, "\(path: path): \(error.text)")
      }
      if form != .same { forms[source.name] = form }
      try check(form, source, path)
    }
    for (reason, names) in lost {
      job.warnings.append(
        .init(
          .compatibility,
          "\(path: path): \(names.count) tensors (\(subject: names[0])\(names.count > 1 ? ", …" : "")) are left out: \(reason)"))
    }
  }

  /// Finds the order of the file, in which all experts that one tensor holds follow one another.
  ///
  /// - Throws: `.usage` where there are none, `.badInput` where one is missing or has another shape than the first
  private mutating func stackExperts(_ job: StreamJob, _ numbers: HuggingFaceNumbers, _ llamaCpp: LlamaCppNames) throws {
    guard let count = try numbers.experts() else { return }
    let path = job.source.path
    guard !experts.isEmpty else { throw NibbleError.usage("\(path: path): its layers have no experts; llama.cpp loads whole models only") }
    // The experts of a layer stand where the first of them did, by matrices and then by numbers.
    var begins: [Substring: Int] = [:]
    let keys = job.items.enumerated().map { index, item -> (Int, String, Int) in
      let name = item.source.name
      guard let expert = experts[name], let layer = names[name]?.dropFirst(4).prefix(while: { $0 != "." }) else { return (index, "", 0) }
      let begin = begins[layer] ?? index
      begins[layer] = begin
      // The converter writes what is MXFP4 before all others.
      let isFirst = llamaCpp.experts?.joined != nil && item.source.encoding == GGMLType.mxfp4.encoding
      return (isFirst ? begin - job.items.count : begin, llamaCpp.experts?.place(of: name.text) ?? "", expert)
    }
    let ordered = zip(keys, job.items).sorted { $0.0 < $1.0 }.map(\.1)
    for (place, item) in ordered.enumerated() { places[item.source.name] = place }
    var stacks: [String: [StoredTensor]] = [:]
    for item in ordered where experts[item.source.name] != nil { stacks[names[item.source.name] ?? "", default: []].append(item.source) }
    for (gguf, stack) in stacks.sorted(by: { $0.key < $1.key }) {
      let numbers = Set(stack.compactMap { experts[$0.name] })
      if let missing = (0..<count).first(where: { !numbers.contains($0) }) {
        throw NibbleError.badInput("\(path: path): its configuration says \(count) experts, and expert \(missing) of \(quoted(gguf)) is missing")
      }
      guard stack.count == count else {
        throw NibbleError.badInput("\(path: path): its configuration says \(count) experts, and \(quoted(gguf)) has \(stack.count)")
      }
      if let odd = stack.first(where: { $0.logicalShape != stack[0].logicalShape || $0.shape.count != (gguf.hasSuffix(".bias") ? 1 : 2) }) {
        throw NibbleError.badInput(
          "\(path: path): \(tensor: odd.name.text) has the shape \(odd.logicalShape), expert 0 \(stack[0].logicalShape); one matrix or bias for each was expected")
      }
    }
  }

  private func check(_ form: LlamaCppForm, _ source: StoredTensor, _ path: String) throws {
    func fail(_ reason: String) -> NibbleError { .badInput("\(path: path): \(tensor: source.name.text) of shape \(source.logicalShape) \(reason)") }
    switch form {
    case .same, .plusOne: break
    case .transposed: guard source.shape.count == 2 else { throw fail("is no matrix") }
    case .interleaved(let heads):
      guard LlamaCppForm.divides(rows: source.logicalShape.first ?? 0, heads: heads) else { throw fail("has no rows for \(heads) heads") }
    case .gathered(let groups, let parts):
      guard LlamaCppForm.gathered(groups, parts, rows: source.logicalShape.first ?? 0, rowBytes: 1) != nil else {
        throw fail("has no rows for \(groups) groups of \(parts.reduce(0, +)) heads")
      }
    case .withoutFirst(let rows):
      guard source.shape.count == 2, source.logicalShape[0] > rows else { throw fail("has no \(rows) rows before those of positions") }
    }
  }

  /// Tensors of what positions are computed with.
  private mutating func addFactors(_ numbers: HuggingFaceNumbers, _ llamaCpp: LlamaCppNames, _ model: ModelKeys) throws {
    guard let rope = try RopeNumbers(numbers, numbers.place) else { return }
    func add(_ name: String, _ factors: [Float]) {
      let bytes = factors.withUnsafeBytes { Array($0) }
      extra.append(.init(name: name, shape: [factors.count], type: GGMLType.f32.number, length: bytes.count, content: bytes))
    }
    switch llamaCpp.architecture {
    case "llama", "granite", "mistral3", "llama4":
      let heads = Int(try numbers.needed(["num_attention_heads"])), width = Int(try numbers.needed(["hidden_size"]))
      guard heads > 0 else { return }
      let size = try numbers.whole(["head_dim"]) ?? width / heads
      guard (2...1 << 16).contains(size), let factors = try rope.factors(headSize: size) else { return }
      add(GgufSource.frequencies, factors)
    case "phi3":
      guard let factors = try rope.longRoPE() else { return }
      let pairs = Int(try model.turned(default: 1)) / 2
      guard factors.long.count == pairs else {
        throw NibbleError.badInput("\(path: numbers.place): \(key: "long_factor") has \(factors.long.count) numbers, a head \(pairs) pairs")
      }
      attentionFactor = factors.attention
      add(GgufSource.longFactors, factors.long)
      add(GgufSource.shortFactors, factors.short)
    default: break
    }
  }

  /// Gives every tensor its type.
  ///
  /// - Returns: llama.cpp's number for what most of them are
  private mutating func settle(_ job: inout StreamJob, _ numbers: HuggingFaceNumbers, _ llamaCpp: LlamaCppNames) throws -> Int {
    let options = job.output.gguf, path = job.source.path
    let order = job.items.enumerated().map { places[$0.element.source.name] ?? $0.offset }
    let indices = job.items.indices.filter { job.items[$0].leftOut == nil }.sorted { order[$0] < order[$1] }
    // Experts that lie in one tensor there have one type.
    var groups: [[Int]] = []
    for index in indices {
      if (experts[job.items[index].source.name] ?? 0) > 0, !groups.isEmpty { groups[groups.count - 1].append(index) } else { groups.append([index]) }
    }
    let tensors = groups.map { group -> GgufTypes.Tensor in
      let sources = group.map { job.items[$0].source }, first = sources[0]
      return .init(
        names: sources.map(\.name), gguf: names[first.name] ?? "", shape: (experts[first.name] == nil ? [] : [group.count]) + shape(first),
        dtype: Set(sources.map(\.dtype)).count == 1 ? first.dtype : .f32,
        blocks: Set(sources.map(\.encoding)).count == 1 ? (first.encoding.codec as? GGMLBlocks)?.type : nil)
    }
    let heads = Int(try numbers.u32(["num_attention_heads", "n_head", "n_heads", "num_heads"]) ?? 0)
    let layers = Int(try numbers.u32(["num_hidden_layers", "n_layer", "n_layers", "num_layers"]) ?? 0) + (try numbers.furtherLayers(llamaCpp))
    var model = GgufMix.Model(
      architecture: llamaCpp.architecture, layers: layers, heads: heads, keyHeads: Int(try numbers.keyHeads() ?? UInt32(heads)),
      experts: try numbers.experts() ?? 0)
    model.hasImportance = options.importance != nil || options.isWeighed
    let types = try GgufTypes(tensors, options, in: model, place: path)
    let each = zip(groups, types.types).flatMap { group, type in group.map { _ in type } }
    try checkRounding(job, indices, each)
    for (index, type) in zip(indices, each) {
      let source = job.items[index].source
      job.items[index].target.becomesNew()
      job.items[index].target.foreign = ForeignLayout()
      job.items[index].target.shape = shape(source)
      job.items[index].target.isTransposed = forms[source.name] == .transposed
      job.items[index].target.encoding = type.encoding
      job.items[index].target.dtype = type.elementType
    }
    if let first = types.fallbacks.first {
      job.warnings.append(
        .init(
          .precision,
          "\(path: path): \(types.fallbacks.count) tensors have rows that are no whole blocks of \(first.wanted.name), \(subject: first.tensor.name.text) the first; "
            + "they become \(Set(types.fallbacks.map(\.type.name)).sorted().joined(separator: ", "))"))
    }
    if let importance = options.importance { try weigh(&job, by: importance) }
    return types.fileType
  }

  /// The shape it has in the file, rows first.
  private func shape(_ source: StoredTensor) -> [Int] {
    forms[source.name] == .transposed ? source.logicalShape.reversed() : source.logicalShape
  }

  /// Types that hold the values of packed tensors about as they are.
  private static let faithful: Set<GGMLType> = [.f32, .f16, .bf16, .q8_0]

  /// Codes that are rounded to codes of another kind lose twice: refused unless that was asked for, with what it would cost.
  private func checkRounding(_ job: StreamJob, _ indices: [Int], _ types: [GGMLType]) throws {
    guard !job.output.gguf.requantizes else { return }
    let rounded = try zip(indices, types).filter { index, type in
      let source = job.items[index].source
      return try source.isPacked && source.encoding != type.encoding && !Self.faithful.contains(type)
        && !(forms[source.name] != .transposed && source.moves(into: type))
    }
    let whole = rounded.filter { job.items[$0.0].source.shape.last.map { $0 % 256 == 0 } == true }
    guard let smallest = (whole.isEmpty ? rounded : whole).min(by: { job.items[$0.0].source.count < job.items[$1.0].source.count }) else { return }
    let source = job.items[smallest.0].source, type = smallest.1
    throw NibbleError.usage(
      "\(path: job.source.path): \(rounded.count) tensors are \(source.encoding.name) already, and \(type.name) would round them once more, by another "
        + "\(decimal(100 * (try job.error(of: source, as: type)), 1)) % of \(subject: source.name.text); f16, bf16, f32 and q8_0 keep their values, quantizing the "
        + "original is better, and \(.allowRequantize) goes on all the same")
  }
}

extension TensorTarget {
  /// Numbers that are in the file.
  fileprivate func storedCount(_ form: LlamaCppForm?) -> Int {
    if case .withoutFirst(let rows)? = form { return max(0, count - rows * (shape.last ?? 0)) }
    return count
  }
}

extension StoredTensor {
  /// Whether its groups become blocks of a type with the same numbers.
  fileprivate func moves(into type: GGMLType) throws -> Bool {
    guard let groups = encoding.codec as? Int4Groups, !isTransposed, groups.ggmlType != nil, type == .q4_0 || type == .q4_1 else { return false }
    let behind = try sections.dropFirst().map { try SectionReader($0, name.text).readWhole() }
    return groups.refusal(type, shape, behind) == nil
  }
}

extension StreamJob {
  /// What rounding a tensor to blocks would change of it, relative to its length.
  fileprivate func error(of source: StoredTensor, as type: GGMLType) throws -> Double {
    var target = TensorTarget(keeping: source)
    target.becomesNew()
    (target.shape, target.isTransposed, target.encoding, target.dtype) = (source.shape, source.isTransposed, type.encoding, .f32)
    guard target.shape.last.map({ $0 % type.blockElements == 0 }) == true else { return .nan }
    let writers = target.sections.enumerated().map { index, section in
      SectionWriter(section.kind, plainLength: section.length, to: nil, checksummed: false, isFirst: index == 0)
    }
    return try stream().send(source, as: target, into: writers).relativeError ?? 0
  }
}

import NibbleCore
import NibbleQuant

extension Checkpoint {
  /// Opens a model in GGUF, one file or the first of its parts, as the Hugging Face model that it was made from: tensors under that
  /// model's names, in its order of rows, with a configuration and a tokenizer made of what the metadata says.
  ///
  /// A model of an architecture whose names nibble does not know has its tensors as they are, and no configuration.
  ///
  /// - Throws: `.badInput`, `.integrity`
  static func openGguf(_ file: InputFile) throws -> Checkpoint {
    let parts = try GgufParts(file)
    let first = parts.first
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: file.path): \(reason)") }
    if let type = first.text("general.type"), type != "model" {
      let hint: MessageText = type == "adapter" ? ": 'nibble adapter convert' makes a folder of it that verbs take" : ""
      throw fail("\(key: "general.type") is \(quoted(type)), which is no checkpoint\(hint)")
    }
    var checkpoint = Checkpoint(path: file.path, container: .gguf)
    checkpoint.files = parts.files.map(\.file)
    checkpoint.origin = ModelOrigin(gguf: first)
    let model = try GgufSource(parts)
    checkpoint.config = model?.config
    try checkpoint.addTensors(of: parts, model)
    if let model { checkpoint.smallFiles.append(SmallFile(name: "config.json", section: StoredSection(.file, bytes: model.config.fileBytes))) }
    try checkpoint.addTokenizer(of: first, model)
    checkpoint.sortTensors()
    checkpoint.smallFiles.sort { ByteName($0.name) < ByteName($1.name) }
    try checkpoint.checkConfig()
    return checkpoint
  }

  private mutating func addTensors(of parts: GgufParts, _ model: GgufSource?) throws {
    guard let model else {
      tensors = parts.tensors.map { StoredTensor($0.tensor, in: $0.file) }
      return
    }
    var joining = GgufExperts(model.names), latents = GgufLatents(model.names)
    for (tensor, file) in parts.tensors where !GgufSource.isNoWeight(tensor.name) {
      if let experts = try model.experts(in: tensor, of: path) {
        for (name, expert) in experts {
          var stored = StoredTensor(expert, in: file)
          stored.name = ByteName(name)
          guard var whole = try joining.take(stored) else { continue }
          try whole.put(back: try model.names.form(tensor.name, model.config))
          tensors.append(whole)
        }
        guard tensors.count <= GgufSource.mostTensors else { throw NibbleError.badInput("\(path: path): more than \(GgufSource.mostTensors) matrices of experts") }
        continue
      }
      guard let name = model.names.huggingFace(tensor: tensor.name) else {
        tensors.append(StoredTensor(tensor, in: file))
        continue
      }
      var stored = StoredTensor(tensor, in: file)
      stored.name = ByteName(name)
      stored.shape = model.names.shape(of: tensor.name, stored.shape)
      let form: LlamaCppForm
      do { form = try model.names.form(tensor.name, model.config) } catch let error as NibbleError {
        throw NibbleError(error.kind, "\(path: path): \(error.text)")
      }
      try stored.put(back: form)
      if let whole = try model.names.halves == nil ? latents.take(stored) : joining.take(stored) { tensors.append(whole) }
    }
    try joining.finish()
    try latents.finish()
    // Several of llama.cpp's names may be one of ours, or another's own.
    var names: Set<ByteName> = []
    if let twice = tensors.first(where: { !names.insert($0.name).inserted }) {
      throw NibbleError.badInput("\(path: path): \(tensor: twice.name.text) is there under two names")
    }
  }
}

extension StoredTensor {
  /// Puts the numbers of a tensor of llama.cpp's back as Hugging Face's has them.
  ///
  /// - Throws: `.badInput` for shapes that cannot have been made so
  fileprivate mutating func put(back form: LlamaCppForm) throws {
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(place): \(reason)") }
    guard let section = sections.first else { return }
    switch form {
    case .same: break
    case .interleaved(let heads):
      guard let rows = shape.first, heads > 0, rows % (2 * heads) == 0 else {
        throw fail("its shape \(shape) has no rows for the halves of \(heads) heads")
      }
      sections[0] = section.ordered(
        .interleaved(headRows: rows / heads, rowBytes: section.storedLength / rows), section.kind, plainLength: section.plainLength)
    case .gathered(let groups, let parts):
      guard let rows = shape.first, rows > 0,
        let order = LlamaCppForm.gathered(groups, parts, rows: rows, rowBytes: section.storedLength / rows)
      else { throw fail("its shape \(shape) has no rows for \(groups) groups of \(parts.reduce(0, +)) heads") }
      sections[0] = section.ordered(order, section.kind, plainLength: section.plainLength)
    case .transposed:
      guard shape.count == 2 else { throw fail("its shape is \(shape), where a matrix is expected") }
      guard !isPacked else { return isTransposed = true }
      sections[0] = section.ordered(
        .turned(rows: shape[1], columns: shape[0], width: dtype.bitWidth / 8), section.kind, plainLength: section.plainLength)
      shape.reverse()
    case .withoutFirst(let rows):
      guard shape.count == 2, !isPacked, rows <= 1 << 20 else { throw fail("its shape is \(shape), where a plain table is expected") }
      let (bytes, overflow) = (section.storedLength / shape[0]).multipliedReportingOverflow(by: rows)
      guard !overflow, bytes <= 1 << 40 else { throw fail("it lacks \(rows) rows") }
      sections[0] = section.ordered(.withoutFirst(bytes), section.kind, plainLength: section.storedLength + bytes)
      shape[0] += rows
    case .plusOne:
      guard dtype == .f32 else { throw fail("it is of \(isPacked ? encoding.name : dtype.rawValue), where F32 is expected") }
      sections[0] = section.ordered(.plusOne, section.kind, plainLength: section.plainLength)
    }
  }
}

extension ModelOrigin {
  /// The model on Hugging Face's hub that a GGUF file says it was made from.
  fileprivate init?(gguf file: GgufFile) {
    let hub = "https://huggingface.co/"
    let repository = file.text("general.source.huggingface.repository")
      ?? ["general.source.repo_url", "general.repo_url"].lazy.compactMap { file.text($0) }.first { $0.hasPrefix(hub) }.map {
        String($0.dropFirst(hub.count))
      }
    guard let repository, ModelOrigin.isPublished(repository), let origin = try? ModelOrigin(name: repository) else { return nil }
    self = origin
  }
}

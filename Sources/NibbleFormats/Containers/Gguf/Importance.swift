import NibbleCore
import NibbleQuant

/// How much each input of a model's matrices counts in the search for scales: the mean square of what it is on a text. llama.cpp calls it an
/// importance matrix.
public struct Importance: Sendable {
  /// Where it comes from, for messages.
  public let path: String
  /// The importance of the inputs of a matrix, of several experts one after another, by the matrix's name: llama.cpp's or Hugging Face's.
  package let entries: [String: [Float]]
  /// The text it was computed from, as the file calls it.
  let dataset: String?
  /// Pieces of text it was computed from; 0 where that is not known.
  let chunks: Int
  /// Entries of experts that met no token: their inputs count alike.
  let unseen: Int
  /// The file, which no output may replace.
  let file: InputFile?
  /// Where it was computed here.
  var source: Source?

  /// Sums that it was computed from, by the name of a matrix, in windows of so many tokens at most.
  struct Source: Sendable {
    let sums: [String: Sum]
    let longest: Int
  }

  /// Of what a matrix takes of some tokens.
  package struct Sum: Sendable {
    /// Σ x² of each input.
    package let squares: [Float]
    package let tokens: Int

    package init(squares: [Float], tokens: Int) { (self.squares, self.tokens) = (squares, tokens) }

    /// Without tokens all inputs count alike.
    var means: [Float] { squares.map { tokens > 0 ? $0 / Float(tokens) : 1 } }
  }

  /// Matrices it is known of.
  public var count: Int { entries.count }

  package init(
    path: String, _ entries: [String: [Float]], dataset: String? = nil, chunks: Int = 0, unseen: Int = 0, file: InputFile? = nil
  ) {
    (self.path, self.entries, self.dataset, self.chunks, self.unseen, self.file) = (path, entries, dataset, chunks, unseen, file)
  }
}

extension GgufPlan {
  /// What `llama-quantize` writes of the importance.
  static func write(_ importance: Importance, _ metadata: inout GgufMetadata) {
    metadata["quantize.imatrix.file"] = .text(importance.path.split(separator: "/").last.map(String.init) ?? importance.path)
    if let dataset = importance.dataset { metadata["quantize.imatrix.dataset"] = .text(dataset) }
    metadata["quantize.imatrix.entries_count"] = .u32(UInt32(clamping: importance.entries.count))
    if importance.chunks > 0 { metadata["quantize.imatrix.chunks_count"] = .u32(UInt32(clamping: importance.chunks)) }
  }

  /// Gives every tensor that is searched scales for the importance of its columns, and says what has none.
  ///
  /// - Throws: `.usage` where no type searches, `.adapterMismatch` for the importance of another model
  func weigh(_ job: inout StreamJob, by importance: Importance) throws {
    let path = importance.path, model = job.source.path
    let family = job.source.family, prefix = job.source.modelType.flatMap { family?.prefix($0) } ?? ""
    var searched = 0, mended = 0
    var (found, lacking): (Set<String>, [String]) = ([], [])
    let expertCount = expertCount
    for index in job.items.indices where job.items[index].leftOut == nil {
      let target = job.items[index].target, name = target.name.text, gguf = names[target.name] ?? name
      // Parts of one parameter share its inputs.
      let whole = job.items[index].whole.map { [$0.name.text, prefix + $0.name.text] } ?? []
      guard let entry = ([gguf, name, prefix + name, family?.inModules(name) ?? name] + whole).first(where: { importance.entries[$0] != nil }), var numbers = importance.entries[entry] else {
        if target.searchedBlocks != nil {
          searched += 1
          lacking.append(name)
        }
        continue
      }
      found.insert(entry)
      guard let blocks = target.searchedBlocks, let columns = target.shape.last else { continue }
      searched += 1
      // An entry of a tensor that holds all experts has the inputs of one after those of another.
      let wanted = columns * (experts[target.name] != nil && entry == gguf ? expertCount : 1)
      guard numbers.count == wanted else {
        // Its columns are no inputs: llama.cpp passes over it too. Of heads that have inputs of their own blocks have none.
        let isByHeads = target.shape.count == 3 && numbers.count == columns.multipliedReportingOverflow(by: target.shape[0]).partialValue
        if gguf == "token_embd.weight" || isByHeads {
          lacking.append(name)
          continue
        }
        throw NibbleError(
          .adapterMismatch, "\(path: path): \(tensor: gguf) has \(numbers.count) inputs, \(tensor: name) of \(path: model) \(wanted)")
      }
      if let expert = experts[target.name], entry == gguf { numbers = Array(numbers[expert * columns..<(expert + 1) * columns]) }
      guard let usable = blocks.usable(numbers) else {
        lacking.append(name)
        continue
      }
      job.items[index].target.importance = usable.numbers
      mended += usable.mended
    }
    guard searched > 0 else {
      let setting: MessageText = job.output.gguf.isWeighed ? "\(.encoder, "imatrix")" : "\(.imatrix)"
      throw NibbleError.usage(
        "\(setting) is for types of blocks whose scales are searched for, and no tensor of \(path: job.output.path) is of one")
    }
    guard !found.isEmpty else {
      throw NibbleError(.adapterMismatch, "\(path: path): none of its \(importance.entries.count) entries is a tensor of \(path: model)")
    }
    func warn(_ text: MessageText) { job.warnings.append(.init(.data, "\(path: path): \(text)")) }
    if let first = lacking.first {
      warn("\(lacking.count) of \(searched) tensors of blocks have no importance, \(subject: first) the first; their scales are searched for without")
    }
    if importance.unseen > 0 { warn("\(importance.unseen) entries met no token; their inputs count alike") }
    if mended > 0 { warn("\(mended) inputs have an importance of 0, or next to it, in whole groups; they count as much as the least important") }
    if importance.entries.count > found.count { warn("\(importance.entries.count - found.count) of \(importance.entries.count) entries are of no tensor here") }
    if let file = importance.file { job.otherInputs.append(file) }
  }
}

extension GgufOptions {
  /// Refuses what is known before any work: a type without a search, where no rule brings another.
  ///
  /// - Throws: `.usage`
  package func checkSearchesScales() throws {
    guard rules.isEmpty, let type, let base = GgufMix(name: type)?.base, base.dtype != nil || !GGMLBlocks(base).takesImportance else { return }
    throw NibbleError.usage("\(.encoder, "imatrix") is for types of blocks whose scales are searched for, and \(.ggufType, type) is none")
  }
}

extension TensorTarget {
  /// The blocks it becomes, where they have scales to search for.
  fileprivate var searchedBlocks: GGMLBlocks? { (encoding.codec as? GGMLBlocks).flatMap { $0.takesImportance ? $0 : nil } }
}

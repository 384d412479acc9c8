import NibbleCalibration
import NibbleCore
import NibbleEvaluation
import NibbleModels
import NibbleTraining

/// Reads the text codes are calibrated with: text files, and JSON Lines whose rows are what `finetune` takes.
struct CalibrationReader {
  private let model: Model
  private let length: Int
  /// Tokens wanted.
  private let tokens: Int
  private let rows: TrainingRows

  /// Bytes of text read for each token wanted: enough for any tokenizer, and a large corpus is not tokenized whole.
  private static let bytesPerToken = 16

  /// - Parameters:
  ///   - length: tokens of a window at most
  ///   - tokens: wanted in all
  init(_ model: Model, length: Int, tokens: Int) throws {
    (self.model, self.length, self.tokens) = (model, length, tokens)
    _ = try model.oneText(for: "a calibration")
    rows = try TrainingRows(
      model, tokenizerPath: nil, maxLength: try model.contextLength, trainsOnPrompt: true, template: nil,
      breaksMarks: true)
  }

  /// The files a name stands for: itself, or the texts of a folder in the order of their names.
  static func files(_ path: String) throws -> [String] {
    guard PathKind(path) == .folder else { return [path] }
    let names = try namesInFolder(path).filter { name in
      [".txt", ".jsonl", ".ndjson", ".md"].contains { name.lowercased().hasSuffix($0) }
    }
    guard !names.isEmpty else { throw NibbleError.badInput("\(path): no .txt or .jsonl file in it") }
    return names.map { path + "/" + $0 }
  }

  /// A file's windows, marks among them.
  ///
  /// - Throws: `.badInput` naming file and line
  func windows(_ path: String) throws -> [[Int]] {
    let lower = path.lowercased()
    var texts: [Documents.Document] = []
    var windows: [[Int]] = []
    if lower.hasSuffix(".jsonl") || lower.hasSuffix(".ndjson") {
      try JSONLines.forEach(path) { row, place in
        if let text = row["text"]?.string {
          texts.append(.init(text: text, place: place))
        } else {
          // Conversations, answers, ids: as finetuning would put them together, marks and all.
          windows += CalibrationText.windows([try rows.encoder.language(row, place: place).row.ids], .init(of: []), length: length)
        }
      }
    } else {
      texts = try Documents(path).documents
    }
    guard !texts.isEmpty else { return windows }
    let own = try ModelTokenizer(model, path: nil)
    let marks = CalibrationText.Marks(of: try own.tokenizer.encode("").ids)
    let documents = try pieces(texts).map { document in
      do { return try own.ids(document.text) } catch let error as NibbleError {
        throw NibbleError(error.kind, "\(path: document.place): \(error.text)")
      }
    }
    return windows + CalibrationText.windows(documents, marks, length: length)
  }

  /// Of much more text than is needed, documents and parts of documents evenly spread over it.
  private func pieces(_ documents: [Documents.Document]) -> [Documents.Document] {
    let limit = Double(Self.bytesPerToken) * Double(tokens)
    let total = documents.reduce(0) { $0 + $1.text.utf8.count }
    guard Double(total) > limit else { return documents }
    // Parts of documents, cut where lines end.
    let length = 1 << 13
    var parts: [Documents.Document] = []
    for document in documents {
      let bytes = Array(document.text.utf8)
      var start = 0
      while start < bytes.count {
        let least = min(start + length, bytes.count)
        let end = least == bytes.count ? least : bytes[least...].firstIndex(of: 0x0A).map { $0 + 1 } ?? bytes.count
        parts.append(.init(text: String(decoding: bytes[start..<end], as: UTF8.self), place: document.place))
        start = end
      }
    }
    var pieces: [Documents.Document] = []
    var taken = 0, seen = 0
    for part in parts {
      seen += part.text.utf8.count
      // Behind its share of the way so far.
      guard Double(taken) * Double(total) < Double(seen) * limit else { continue }
      taken += part.text.utf8.count
      pieces.append(part)
    }
    return pieces
  }
}

import NibbleCore
import NibbleQuant

/// What a model folder says of how its weights are quantized.
struct QuantizationSettings {
  /// `quant_method`; nil where it says none.
  let method: String?
  let json: JSON
  /// The file it stands in.
  let place: String

  /// - Parameter config: config.json
  init?(config: JSON?, place: String) {
    guard let json = ["quantization_config", "quantization"].lazy.compactMap({ config?[$0] }).first(where: { $0.members != nil })
    else { return nil }
    (self.json, self.place) = (json, place)
    method = json["quant_method"]?.string
  }

  private init(_ json: JSON, method: String?, place: String) { (self.json, self.method, self.place) = (json, method, place) }

  /// What it says of one module; nil if that is nothing of its own.
  func part(_ module: String) -> QuantizationSettings? {
    json[module].flatMap { $0.members == nil ? nil : QuantizationSettings($0, method: method, place: place) }
  }

  /// Files of their own that GPTQ's and AWQ's first programs wrote, and what they call the method.
  static let files = [("quantize_config.json", GPTQLayout.method), ("quant_config.json", AWQLayout.method)]

  /// - Parameter folder: of a model whose config.json says nothing
  init?(folder: String, _ names: [String]) throws {
    guard let (file, method) = Self.files.first(where: { names.contains($0.0) }) else { return nil }
    (place, self.method) = (folder + "/" + file, method)
    json = try Checkpoint.readJSON(place)
  }

  subscript(_ key: String) -> JSON? { json[key].flatMap { $0 == .null ? nil : $0 } }

  /// What is wrong with a setting.
  func fail(_ key: String, _ value: JSON, _ why: MessageText = "is not read") -> NibbleError {
    .badInput("\(path: place): quantization settings: \(key: key) = \(quoted(value.text())) \(why)")
  }

  /// Throws unless `key` is missing or one of `expected`.
  func check(_ key: String, _ expected: JSON...) throws {
    if let value = self[key], !expected.contains(value) { throw fail(key, value) }
  }

  /// The group size that one of `keys` gives; 0 for a whole row.
  ///
  /// - Parameter row: the number that stands for a row
  func groupSize(_ keys: String..., row: Int? = -1) throws -> Int {
    guard let (key, value) = keys.lazy.compactMap({ key in self[key].map { (key, $0) } }).first else {
      throw NibbleError.badInput("\(path: place): quantization settings: \(key: keys[0]) is missing")
    }
    if let row, value.int == row { return 0 }
    guard let size = value.int, Int4Groups.sizes.contains(size) else {
      throw fail(key, value, "is not read; groups of \(Int4Groups.sizes)\(row == nil ? "" : " and of a whole row (-1)") are")
    }
    return size
  }
}

import NibbleAdapters
import NibbleCore

extension NewHead {
  /// For an adapter's record.
  package var json: JSON {
    let json: JSON = ["labels": JSON(labels), "pooling": JSON(pooling.rawValue), "many_labels": .bool(hasManyLabels)]
    return names.isEmpty ? json : json.setting("names", to: JSON(names))
  }

  /// The head that an adapter was trained with, if its base had none.
  ///
  /// - Throws: `.badInput` for a record that is none
  public init?(of adapter: AdapterFile) throws {
    guard let json = adapter.binding?.head else { return nil }
    try self.init(json, place: adapter.path)
  }

  /// The head whose weights a merged model holds, if no class of transformers has it.
  ///
  /// - Throws: `.badInput` for a record that is none
  init?(storedIn config: ConfigReader, path: String) throws {
    guard let json = config["nibble_head"] else { return nil }
    try self.init(json, place: path)
  }

  private init(_ json: JSON, place: String) throws {
    let bad = NibbleError.badInput("\(path: place): its record of a head is not what nibble writes there")
    guard let labels = json["labels"]?.int, (1...1 << 20).contains(labels),
      let pooling = json["pooling"]?.string.flatMap(Pooling.init(rawValue:)), let many = json["many_labels"]?.bool
    else { throw bad }
    var names: [String] = []
    if let list = json["names"] {
      names = list.array?.compactMap(\.string) ?? []
      guard names.count == labels else { throw bad }
    }
    self.init(labels: labels, pooling: pooling, hasManyLabels: many, names: names)
  }
}

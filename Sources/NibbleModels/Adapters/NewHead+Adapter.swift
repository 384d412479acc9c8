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
    guard let labels = json["labels"]?.int, (1...1 << 20).contains(labels),
      let pooling = json["pooling"]?.string.flatMap(Pooling.init(rawValue:)), let many = json["many_labels"]?.bool
    else { throw Self.badRecord(adapter) }
    var names: [String] = []
    if let list = json["names"] {
      names = list.array?.compactMap(\.string) ?? []
      guard names.count == labels else { throw Self.badRecord(adapter) }
    }
    self.init(labels: labels, pooling: pooling, hasManyLabels: many, names: names)
  }

  private static func badRecord(_ adapter: AdapterFile) -> NibbleError {
    .badInput("\(path: adapter.path): its record of a head is not what nibble writes there")
  }
}

import NibbleCore

/// Images with the class of each, listed before any is read: a folder with a folder a class, rows that name files, or a file of CIFAR-10.
public struct ImageList: Sendable {
  public struct Item: Sendable {
    /// The file, and where in it or which line names it.
    public var place: String
    /// A class by name or number.
    public var label: JSON
    fileprivate var source: Source

    /// - Throws: `.badInput` naming the file: no image, damaged, too large
    public func picture() throws -> Picture {
      switch source {
      case .file(let path): return try Picture(path)
      case .cifar(let file, let number):
        let bytes = try file.bytes(at: number * Cifar.row + 1, count: Cifar.row - 1), plane = Cifar.edge * Cifar.edge
        let pixels = [UInt8](unsafeUninitializedCapacity: 3 * plane) { out, count in
          for place in 0..<plane { for colour in 0..<3 { out[3 * place + colour] = bytes[colour * plane + place] } }
          count = 3 * plane
        }
        return Picture(width: Cifar.edge, height: Cifar.edge, pixels)
      }
    }
  }

  fileprivate enum Source: Sendable { case file(String), cifar(InputFile, Int) }

  /// CIFAR-10's binary form: a byte for the class, then 32 x 32 of red, of green and of blue.
  private enum Cifar { static let edge = 32, row = 1 + 3 * 32 * 32 }

  public private(set) var items: [Item] = []
  /// Names of the folders that are classes, in the order of their bytes; empty for other data.
  public private(set) var folders: [String] = []
  /// Files of class folders that are no images by their names.
  public private(set) var passedOver = 0

  /// Lists what lies at `path`.
  ///
  /// - Throws: `.badInput` for what is none of these, naming file and line
  public init(_ path: String) throws {
    if PathKind(path) == .folder {
      try read(folder: path)
    } else if path.lowercased().hasSuffix(".bin") {
      try read(cifar: path)
    } else {
      try read(rows: path)
    }
    guard !items.isEmpty else { throw NibbleError.badInput("\(path: path): no images in it") }
  }

  private mutating func read(folder path: String) throws {
    for name in try namesInFolder(path) where !name.hasPrefix(".") && PathKind(path + "/" + name) == .folder {
      folders.append(name)
      for file in try namesInFolder(path + "/" + name) where !file.hasPrefix(".") {
        let place = "\(path)/\(name)/\(file)"
        guard [".png", ".jpg", ".jpeg"].contains(where: { file.lowercased().hasSuffix($0) }), PathKind(place) == .file else {
          passedOver += 1
          continue
        }
        items.append(Item(place: place, label: JSON(name), source: .file(place)))
      }
    }
    guard !folders.isEmpty else { throw NibbleError.badInput("\(path: path): a folder of images has a folder for each class, and this has none") }
  }

  private mutating func read(cifar path: String) throws {
    let file = try InputFile(path)
    guard file.size > 0, file.size % Cifar.row == 0 else {
      throw NibbleError.badInput("\(path: path): \(file.size) bytes are no whole number of CIFAR-10 images of \(Cifar.row)")
    }
    for number in 0..<file.size / Cifar.row {
      let label = try file.bytes(at: number * Cifar.row, count: 1)[0]
      items.append(Item(place: "\(path): image \(number)", label: JSON(Int(label)), source: .cifar(file, number)))
    }
  }

  private mutating func read(rows path: String) throws {
    let folder = path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
    let advice: MessageText = #"; a row of images is {"image": "path/to/file.png", "label": …}"#
    try JSONLines.forEachRow(path, advice: advice) { row, place in
      guard let name = row["image"]?.string, !name.isEmpty else {
        throw NibbleError.badInput("\(path: place): \(key: "image") is no path\(advice)")
      }
      guard let label = row["label"] else { throw NibbleError.badInput("\(path: place): \(key: "label") is missing") }
      let isWhole = name.hasPrefix("/") || folder.isEmpty && !path.hasPrefix("/")
      items.append(Item(place: place, label: label, source: .file(isWhole ? name : folder + "/" + name)))
    }
  }
}

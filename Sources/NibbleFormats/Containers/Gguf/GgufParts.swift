import NibbleCore

/// A model in GGUF: one file, or the parts that llama.cpp's `llama-gguf-split` makes, called `…-00001-of-0000N.gguf`.
struct GgufParts {
  /// In order. The first has the metadata.
  private(set) var files: [GgufFile]

  var first: GgufFile { files[0] }
  var tensors: [(tensor: GgufFile.Tensor, file: GgufFile)] { files.flatMap { file in file.tensors.map { ($0, file) } } }

  private static let most = 10_000

  /// - Parameter file: the first part
  /// - Throws: `.badInput` for another part, and for parts that are missing or do not belong together; `.integrity` where their tensors
  ///   are not as many as the first says
  init(_ file: InputFile) throws {
    let first = try GgufFile(file)
    files = [first]
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: first.path): \(reason)") }
    guard let count = first.metadata["split.count"].map({ _ in first.whole("split.count") ?? -1 }), count != 1 else { return }
    guard (0...Self.most).contains(count), let number = first.whole("split.no"), (0..<max(1, count)).contains(number) else {
      throw fail("\(key: "split.no") and \(key: "split.count") are no number of a part and no count of parts")
    }
    guard count > 1 else { return }
    let ending = Self.ending(number, of: count)
    guard first.path.hasSuffix(ending) else {
      throw fail("part \(number + 1) of \(count), whose name must end in \(quoted(ending)) for the others to be found")
    }
    let stem = String(first.path.dropLast(ending.count))
    guard number == 0 else { throw fail("part \(number + 1) of \(count); give the first, \(stem)\(Self.ending(0, of: count))") }
    for index in 1..<count {
      let path = stem + Self.ending(index, of: count)
      guard PathKind(path) != .nothing else { throw fail("part \(index + 1) of \(count), \(quoted(path)), is missing") }
      let part = try GgufFile(path)
      guard part.whole("split.no") == index, part.whole("split.count") == count else {
        throw NibbleError.badInput("\(path: path): does not say that it is part \(index + 1) of \(count)")
      }
      files.append(part)
    }
    var owners: [ByteName: String] = [:]
    for (tensor, file) in tensors {
      if let other = owners.updateValue(file.path, forKey: ByteName(tensor.name)) {
        throw NibbleError.badInput("\(path: file.path): \(tensor: tensor.name) is in \(quoted(other)) too")
      }
    }
    if first.metadata["split.tensors.count"] != nil, first.whole("split.tensors.count") != owners.count {
      throw NibbleError.integrity(
        "\(path: first.path): the parts hold \(owners.count) tensors, \(key: "split.tensors.count") is "
          + "\(first.metadata["split.tensors.count"]?.text ?? "missing")")
    }
  }

  /// The files in a folder that hold a model, or its first part; what reads images beside a model (`mmproj`) is none.
  static func models(_ names: [String]) -> [String] {
    names.filter { name in
      guard name.hasSuffix(".gguf"), !name.hasPrefix("mmproj"), let part = Self.part(name) else { return false }
      return part == 1
    }.sorted()
  }

  /// The number of a part by its name, from 1 on; 1 for whole models.
  private static func part(_ name: String) -> Int? {
    let words = name.dropLast(".gguf".count).split(separator: "-", omittingEmptySubsequences: false).suffix(3)
    guard words.count == 3, words[words.startIndex + 1] == "of", words.allSatisfy({ $0 == "of" || $0.count == 5 && $0.allSatisfy(\.isNumber) }) else { return 1 }
    return Int(words[words.startIndex])
  }

  /// How llama.cpp ends the names of parts; numbers count from 0 in files, from 1 in names.
  private static func ending(_ number: Int, of count: Int) -> String {
    func five(_ number: Int) -> String { String(repeating: "0", count: max(0, 5 - String(number).count)) + String(number) }
    return "-\(five(number + 1))-of-\(five(count)).gguf"
  }
}

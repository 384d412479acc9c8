import NibbleCore
import NibbleQuant

/// Where everything will stand in the safetensors files to be written, known before the first byte is, but for the lengths
/// of quantization states, which contain a decimal number and therefore come last.
struct SafetensorsLayout {
  struct Entry {
    let name: ByteName
    let dtype: DType
    let shape: [Int]
    /// Bytes; for a quantization state the most it can be.
    let length: Int
    let part: Part
    /// Of a part of stacked experts.
    var stack: Stack?

    init(name: ByteName, dtype: DType, shape: [Int], length: Int, part: Part) {
      (self.name, self.dtype, self.shape, self.length, self.part) = (name, dtype, shape, length, part)
    }

    init(_ name: ByteName, _ dtype: DType, _ shape: [Int], _ part: Part) {
      let length = (elementCount(of: shape) ?? 0) * dtype.bitWidth / 8
      self.init(name: name, dtype: dtype, shape: shape, length: length, part: part)
    }

    /// The one tensor that a plain one is.
    init(plain target: TensorTarget) {
      self.init(
        name: target.name, dtype: target.dtype, shape: target.shape, length: target.sections[0].length, part: .section(.data))
    }

    /// What a header lists for it: nothing for parts of a stack behind the first.
    var listed: Listed? {
      guard let stack else { return Listed(name: name, shape: shape, length: length) }
      return stack.index == 0 ? Listed(name: stack.name, shape: [stack.count] + shape, length: stack.count * length) : nil
    }

    /// Whether it holds that section.
    func holds(_ kind: SectionKind) -> Bool { part.section == kind }
  }

  struct Listed {
    let name: ByteName
    let shape: [Int]
    let length: Int
  }

  /// Where among stacked experts an entry belongs.
  struct Stack: Hashable, Sendable {
    /// What is written into one file.
    let block: String
    let name: ByteName
    let index, count: Int
  }

  /// What of a target an entry holds.
  enum Part: Equatable {
    case section(SectionKind)
    /// The same in another order.
    case ordered(SectionKind, SectionOrder)
    /// A table of values.
    case table(Codebook)
    /// Bytes that are known beforehand.
    case constant([UInt8])
    /// The text of a quantization state.
    case state

    var section: SectionKind? {
      switch self {
      case .section(let kind), .ordered(let kind, _): kind
      case .table, .constant, .state: nil
      }
    }

    var order: SectionOrder? { if case .ordered(_, let order) = self { order } else { nil } }
  }

  struct Shard {
    var targets: [TensorTarget] = []
    var length = 0
  }

  let shards: [Shard]
  let metadata: [(key: String, value: String)]
  /// The tensors of the file that hold a target.
  let entries: @Sendable (TensorTarget) -> [Entry]

  /// - Parameter maximumShard: bytes of tensors that a file holds at most, unless one tensor is larger
  init(
    _ targets: [TensorTarget], metadata: [(key: String, value: String)], maximumShard: Int,
    entries: @escaping @Sendable (TensorTarget) -> [Entry]
  ) {
    self.entries = entries
    var shards = [Shard()]
    var blocks: [String: Int] = [:]
    for entry in targets.lazy.flatMap(entries) { if let stack = entry.stack { blocks[stack.block, default: 0] += entry.length } }
    for target in targets {
      let own = entries(target), length = own.reduce(0) { $0 + $1.length }
      // A block of stacks is one as far as files go.
      let needed = own.first?.stack.map { blocks.removeValue(forKey: $0.block) ?? 0 } ?? length
      if !shards[shards.count - 1].targets.isEmpty, needed > 0 || own.first?.stack == nil, needed > maximumShard - shards[shards.count - 1].length {
        shards.append(Shard())
      }
      shards[shards.count - 1].targets.append(target)
      shards[shards.count - 1].length += length
    }
    self.shards = shards
    var all = metadata
    if !all.contains(where: { $0.key == "format" }) { all.append(("format", "pt")) }
    self.metadata = all.sorted { ByteName($0.key) < ByteName($1.key) }
  }

  func name(of shard: Int) -> String {
    func padded(_ number: Int) -> String {
      String(repeating: "0", count: max(0, 5 - String(number).count)) + String(number)
    }
    return shards.count == 1 ? "model.safetensors" : "model-\(padded(shard + 1))-of-\(padded(shards.count)).safetensors"
  }

  /// Wider types first, so that each begins at a multiple of its size; texts of unknown length at the end.
  static func region(_ entry: Entry) -> Int {
    if entry.part == .state { return 4 }
    return [64: 0, 32: 1, 16: 2][entry.dtype.bitWidth] ?? 3
  }
  static let regions = 5

  /// One member of a header, after the brace or comma before it. A tree of all members is ten times as large as their text.
  private static func member(_ name: String, _ value: JSON) -> [UInt8] {
    Array(JSON.object([(name, value)]).text().utf8.dropFirst().dropLast())
  }

  /// Written out, as there may be a million of them.
  private static func member(_ name: ByteName, _ dtype: DType, _ shape: [Int], _ range: Range<Int>) -> String {
    var text = JSON(name.text).text()
    text += ":{\"dtype\":\""
    text += dtype.rawValue
    text += "\",\"shape\":["
    for (index, extent) in shape.enumerated() {
      if index > 0 { text += "," }
      text += String(extent)
    }
    text += "],\"data_offsets\":["
    text += String(range.lowerBound)
    text += ","
    text += String(range.upperBound)
    text += "]}"
    return text
  }

  private static func member(_ metadata: [(key: String, value: String)]) -> [UInt8] {
    member("__metadata__", .object(metadata.map { ($0.key, .string($0.value)) }))
  }

  /// The header text for entries at given places.
  static func headerText(
    _ entries: [(name: ByteName, dtype: DType, shape: [Int], range: Range<Int>)],
    _ metadata: [(key: String, value: String)]
  ) -> [UInt8] {
    var text = [UInt8(ascii: "{")] + member(metadata)
    for entry in entries {
      text.append(UInt8(ascii: ","))
      text += member(entry.name, entry.dtype, entry.shape, entry.range).utf8
    }
    return text + [UInt8(ascii: "}")]
  }

  /// Bytes to leave for the header of `shard`, a multiple of 8.
  func headerLength(_ shard: Shard) -> Int {
    var starts = [Int](repeating: 0, count: Self.regions)
    for entry in shard.targets.lazy.flatMap(entries) {
      let region = Self.region(entry)
      for later in (region + 1)..<max(region + 1, Self.regions) { starts[later] += entry.length }
    }
    var length = 2 + Self.member(metadata).count
    for entry in shard.targets.lazy.flatMap(entries) {
      guard let listed = entry.listed else { continue }
      let region = Self.region(entry)
      let range = starts[region]..<starts[region] + listed.length
      length += 1 + Self.member(listed.name, entry.dtype, listed.shape, range).utf8.count
      starts[region] = range.upperBound
    }
    return (length + 7) / 8 * 8
  }

  /// Bytes of all files, and whether that is exact or the most it can be.
  var size: (bytes: Int, isExact: Bool) {
    let bytes = shards.reduce(0) { $0 + 8 + headerLength($1) + $1.length }
    let isExact = shards.allSatisfy {
      $0.targets.allSatisfy { $0.encoding.bitsAndBytes?.tellsType != true || $0.stateText != nil }
    }
    return (bytes, isExact)
  }

  /// Bytes that are in memory because the window they belong to is not full, of the shard where they are most, and because a section
  /// is put into another order whole.
  var openBytes: Int {
    let turned = shards.lazy.flatMap(\.targets).flatMap(entries).filter { $0.part.order?.isInPlace == false }.map(\.length).max() ?? 0
    return turned + (shards.map { shard in
      var lengths = [Int](repeating: 0, count: Self.regions)
      var blocks: [String: [ByteName: Int]] = [:]
      for entry in shard.targets.lazy.flatMap(entries) {
        lengths[Self.region(entry)] += entry.length
        if let stack = entry.stack { blocks[stack.block, default: [:]][stack.name, default: 0] += entry.length }
      }
      // The stacks of a block grow side by side.
      let stacked = blocks.values.map { $0.values.reduce(0) { $0 + min($1, OutputFile.windowSize) } }.max() ?? 0
      return stacked + lengths.reduce(0) { $0 + min($1, OutputFile.windowSize) }
    }.max() ?? 0)
  }

  /// The text of the shard index.
  func index(_ weightMap: [(key: String, value: JSON)], totalSize: Int) -> [UInt8] {
    let map = weightMap.sorted { ByteName($0.key) < ByteName($1.key) }
    return JSON.object([("metadata", ["total_size": JSON(totalSize)]), ("weight_map", .object(map))]).fileBytes
  }

  /// Bytes of the shard index; 0 for a single shard.
  var indexLength: Int {
    guard shards.count > 1 else { return 0 }
    let map = shards.enumerated().flatMap { number, shard in
      shard.targets.flatMap(entries).compactMap(\.listed).map { (key: $0.name.text, value: JSON(name(of: number))) }
    }
    return index(map, totalSize: shards.reduce(0) { $0 + $1.length }).count
  }
}

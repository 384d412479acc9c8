import NibbleCore

extension Importance {
  /// Reads what `llama-imatrix` writes: a GGUF file, or the older form without a magic.
  ///
  /// - Throws: `.badInput` for files that are neither, that are cut, and for numbers that are no mean squares
  public init(_ path: String) throws {
    let file = try InputFile(path)
    let start = try file.bytes(at: 0, count: min(4, file.size))
    self = start == GgufFile.magic ? try Self.read(GgufFile(file)) : try Self.readOlder(file)
  }

  private static let (sums, counts) = (".in_sum2", ".counts")

  /// `NAME.in_sum2` [experts, inputs] has sums of squares, `NAME.counts` [experts, 1] what they are divided by, each F32.
  private static func read(_ file: GgufFile) throws -> Importance {
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: file.path): \(reason)") }
    let tensors = Dictionary(file.tensors.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    var entries: [String: [Float]] = [:], unseen = 0
    for tensor in file.tensors where tensor.name.hasSuffix(counts) {
      let name = String(tensor.name.dropLast(counts.count))
      guard tensors[name + sums] != nil else { throw fail("\(tensor: tensor.name) without \(subject: name + sums)") }
    }
    for tensor in file.tensors where tensor.name.hasSuffix(sums) {
      let name = String(tensor.name.dropLast(sums.count))
      guard let divisors = tensors[name + counts] else { throw fail("\(tensor: tensor.name) without \(subject: name + counts)") }
      guard tensor.type == .f32, divisors.type == .f32 else { throw fail("\(tensor: name) is of \(tensor.type.name) and \(divisors.type.name), both must be f32") }
      var values = try file.floats(tensor)
      let times = try file.floats(divisors)
      guard !times.isEmpty, !values.isEmpty, values.count % times.count == 0, tensor.shape.last == values.count / times.count else {
        throw fail("\(tensor: name) has sums of shape \(tensor.shape) and \(times.count) counts")
      }
      let inputs = values.count / times.count
      for (expert, number) in times.enumerated() {
        guard number >= 0, number.isFinite else { throw fail("\(tensor: name) has a count of \(number)") }
        let count = number.rounded(.toNearestOrAwayFromZero)
        if count == 0 { unseen += 1 }
        for place in expert * inputs..<(expert + 1) * inputs { values[place] = count > 0 ? values[place] / count : 1 }
      }
      entries[name] = try checked(values, name, file.path)
    }
    guard !entries.isEmpty else {
      throw fail("no importance matrix: there is no tensor whose name ends in \(sums), as llama-imatrix writes them")
    }
    return Importance(
      path: file.path, entries, dataset: try (file.list("imatrix.datasets").map { $0.count > 0 } ?? false)
        ? String(validating: file.texts("imatrix.datasets")[0], as: UTF8.self) : nil,
      chunks: max(0, file.whole("imatrix.chunk_count") ?? 0), unseen: unseen, file: file.file)
  }

  /// How many entries, then of each: its name with the length before it, calls, how many numbers, the numbers times the calls. Behind them
  /// may be the calls in all and the name of a text. Whole numbers have 32 bits.
  private static func readOlder(_ file: InputFile) throws -> Importance {
    let path = file.path
    var at = 0
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: path): \(reason) at byte \(at)") }
    func bytes(_ count: Int) throws -> [UInt8] {
      guard count <= file.size - at else { throw fail("the file is cut: \(count) bytes are missing") }
      defer { at += count }
      return try file.bytes(at: at, count: count)
    }
    func whole() throws -> Int {
      try bytes(4).withUnsafeBytes { Int(Int32(littleEndian: $0.loadUnaligned(as: Int32.self))) }
    }
    func text(_ what: MessageText, _ count: Int) throws -> String {
      guard let text = String(validating: try bytes(count), as: UTF8.self) else { throw fail("\(what) that is no UTF-8") }
      return text
    }
    guard file.size >= 16 else { throw fail("no importance matrix: a file of \(file.size) bytes") }
    let count = try whole()
    guard (1...1 << 18).contains(count) else { throw fail("no importance matrix: \(count) entries") }
    var entries: [String: [Float]] = [:]
    for _ in 0..<count {
      let length = try whole()
      guard (1...1024).contains(length) else { throw fail("no importance matrix: a name of \(length) bytes") }
      let name = try text("a name", length), calls = try whole(), numbers = try whole()
      guard calls >= 0 else { throw fail("\(tensor: name) has a count of \(calls)") }
      guard (1...1 << 28).contains(numbers) else { throw fail("\(tensor: name) has \(numbers) numbers") }
      var values = try bytes(4 * numbers).withUnsafeBytes { raw in
        (0..<numbers).map { Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self))) }
      }
      if calls > 0 { for place in values.indices { values[place] /= Float(calls) } }
      guard entries.updateValue(try checked(values, name, path), forKey: name) == nil else { throw fail("\(tensor: name) is there twice") }
    }
    var chunks = 0, dataset: String?
    if at < file.size {
      chunks = try whole()
      let length = at < file.size ? try whole() : 0
      guard (0...1 << 16).contains(length) else { throw fail("the name of a text of \(length) bytes") }
      if length > 0 { dataset = try text("the name of a text", length) }
    }
    guard at == file.size else { throw fail("\(file.size - at) bytes follow the last entry") }
    return Importance(path: path, entries, dataset: dataset, chunks: max(0, chunks), file: file)
  }

  /// Mean squares are finite and not negative.
  private static func checked(_ values: [Float], _ name: String, _ path: String) throws -> [Float] {
    guard let bad = values.first(where: { !($0 >= 0 && $0.isFinite) }) else { return values }
    throw NibbleError.badInput("\(path: path): \(tensor: name) has an importance of \(bad), which is no mean square")
  }
}

// MARK: - Writing

extension Importance {
  /// - Parameters:
  ///   - sums: by the name of a matrix
  ///   - name: what it is called, and the text
  ///   - longest: tokens of the longest window
  package init(_ sums: [String: Sum], name: String, windows: Int, longest: Int) {
    self.init(path: name, sums.mapValues(\.means), dataset: name, chunks: windows, unseen: sums.count { $0.value.tokens == 0 })
    source = Source(sums: sums, longest: longest)
  }

  /// Refuses what no file can be written for, before a text is run.
  ///
  /// - Throws: `.usage` for a model that llama.cpp has no names for
  package static func check(_ checkpoint: Checkpoint) throws { _ = try names(of: checkpoint) }

  private static func names(of checkpoint: Checkpoint) throws -> LlamaCppNames {
    guard let names = checkpoint.llamaCpp else {
      throw NibbleError.usage("\(path: checkpoint.path): llama.cpp's names of its tensors are not known, so there is no importance matrix of it")
    }
    return names
  }

  /// Writes the GGUF file that `llama-quantize --imatrix` reads, as `llama-imatrix` would.
  ///
  /// - Parameter checkpoint: the model it was computed with
  /// - Returns: bytes written, and how many matrices llama.cpp has no name for
  /// - Throws: `.usage` for a model that llama.cpp has no names for, and `.cannotWrite`
  public func write(to path: String, of checkpoint: Checkpoint, force: Bool) throws -> (bytes: Int, unnamed: Int) {
    guard let source else { throw NibbleError(.failed, "\(path: path): there are no sums to write") }
    let names = try Self.names(of: checkpoint)
    let metadata = GgufMetadata([
      ("general.type", .text("imatrix")), ("imatrix.datasets", .texts([dataset ?? self.path])), ("imatrix.chunk_count", .u32(UInt32(clamping: chunks))),
      ("imatrix.chunk_size", .u32(UInt32(clamping: source.longest))),
    ])
    let (stacks, unnamed) = Self.stacks(source.sums, names)
    let writer = GgufWriter(
      metadata.entries,
      stacks.flatMap { name, sums in
        [
          GgufWriter.Tensor(name + Self.sums, [sums.count, sums[0].squares.count]) { sums.flatMap(\.squares) },
          GgufWriter.Tensor(name + Self.counts, [sums.count, 1]) { sums.map { Float($0.tokens) } },
        ]
      })
    let staged = try StagedOutput(path, .file, force: force)
    do {
      try writer.write(to: staged)
      try staged.publish()
    } catch {
      staged.discard()
      throw error
    }
    return (writer.size, unnamed)
  }

  /// The sums by llama.cpp's names, of the experts that one of its tensors holds in their order; and how many matrices it has no name for.
  private static func stacks(_ sums: [String: Sum], _ names: LlamaCppNames) -> (stacks: [(name: String, sums: [Sum])], unnamed: Int) {
    var stacks: [String: [(number: Int, sum: Sum)]] = [:], unnamed = 0
    for (whole, sum) in sums {
      // Parts of one parameter share its inputs.
      let parts = names.parted.flatMap { parted in
        ByteName(whole).parts(of: parted.whole).map { stem, suffix in [parted.first, parted.second].map { stem + $0 + suffix } }
      }
      for name in parts ?? [whole] {
        if let (gguf, number) = names.expert(tensor: name) {
          stacks[gguf, default: []].append((number, sum))
        } else if let gguf = names.gguf(tensor: name) {
          stacks[gguf, default: []].append((0, sum))
        } else {
          unnamed += 1
        }
      }
    }
    return (stacks.map { ($0, $1.sorted { $0.number < $1.number }.map(\.sum)) }.sorted { $0.0 < $1.0 }, unnamed)
  }
}

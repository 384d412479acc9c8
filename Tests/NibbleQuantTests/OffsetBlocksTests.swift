import Glibc
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("NF4 with an offset a block")
struct OffsetBlocksTests {
  static func golden() throws -> SmallSafetensors { try SmallSafetensors(fixture("icq.safetensors")) }

  /// The search of the reference's file.
  private func published(_ order: OffsetSearch.Order) -> OffsetSearch {
    var search = OffsetSearch()
    (search.order, search.steps) = (order, 50)
    return search
  }

  private func found(_ search: OffsetSearch, _ values: [Float], block: Int) -> (offsets: [Float], ends: [Float], counts: EncodeCounts) {
    let blocks = ceilDivide(values.count, block)
    var offsets = [Float](repeating: .nan, count: blocks), ends = [Float](repeating: .nan, count: 2 * blocks)
    let counts = Kernels.findOffsets(search, values, count: values.count, block: block, offsets: &offsets, ends: &ends)
    return (offsets, ends, counts)
  }

  @Test("are the reference's offsets, in either order", arguments: OffsetSearch.Order.allCases)
  func offsets(_ order: OffsetSearch.Order) throws {
    let golden = try Self.golden(), search = published(order)
    let found = found(search, golden.floats("w"), block: 64).offsets
    if order == .ascending { #expect(found == golden.floats("tau")) }
    let (medians, absmax) = (golden.floats("tau0"), golden.floats("centred_absmax"))
    let indices = try #require(golden["factor_index_" + order.rawValue])
    for block in 0..<256 {
      let index = Int(indices[4 * block]) | Int(indices[4 * block + 1]) << 8
      #expect(found[block] == search.factors[index] * absmax[block] + medians[block], "\(block)")
    }
  }

  @Test("are the reference's codes and scales, rounded first and as published")
  func codes() throws {
    let golden = try Self.golden(), shape = [64, 256], wanted = golden.floats("w")
    for (roundsFirst, suffix) in [(false, ""), (true, "_consistent")] {
      var search = published(.ascending)
      search.roundsFirst = roundsFirst
      let codes = try encoded(OffsetBlocks(nested: nil), wanted, encodingTask(shape, offsets: search))
      #expect(same(codes.sections[0], golden["packed" + suffix]))
      #expect(same(codes.sections[1], golden["absmax" + suffix]))
      #expect(same(codes.sections[2], golden["tau_q"]))
      #expect(same(codes.sections[3], golden["tau_absmax"]))
      // The reference codes scales only where it rounds last.
      let stored = roundsFirst ? codes : try encoded(OffsetBlocks(), wanted, encodingTask(shape, offsets: search))
      for (x, y) in zip(decoded(stored, shape), golden.floats("W_dequant" + suffix)) { #expect(abs(x - y) <= 1e-6 + 1e-5 * abs(y)) }
    }
  }

  private func entropy(_ codes: [UInt8]) -> Double {
    var counts = [Double](repeating: 0, count: 16)
    for pair in codes { for code in [pair >> 4, pair & 15] { counts[Int(code)] += 1 } }
    let all = counts.reduce(0, +)
    return counts.reduce(0) { $1 == 0 ? $0 : $0 - $1 / all * log2($1 / all) }
  }

  @Test("have the reference's entropy in every block, more than blocks without")
  func histograms() throws {
    let golden = try Self.golden(), shape = [64, 256], wanted = golden.floats("w")
    var search = published(.centre)
    search.roundsFirst = false
    let codes = try encoded(OffsetBlocks(nested: nil), wanted, encodingTask(shape, offsets: search)).sections[0]
    let plain = try encoded(BlockCodec(.nf4, nested: nil), wanted, encodingTask(shape)).sections[0]
    let (after, before) = (golden.floats("entropy_after"), golden.floats("entropy_before"))
    for block in 0..<256 {
      let range = 32 * block..<32 * block + 32
      #expect(abs(entropy(Array(codes[range])) - Double(after[block])) <= 1e-5)
      #expect(abs(entropy(Array(plain[range])) - Double(before[block])) <= 1e-5)
    }
  }

  @Test("scored by squared error lower it; scored by entropy they do not")
  func scores() throws {
    var random = Generator(5)
    let shape = [64, 512], values = (0..<64 * 512).map { _ in Self.normal(&random) * 0.02 }
    var search = OffsetSearch()
    let plain = relativeError(values, decoded(try encoded(BlockCodec(.nf4), values, encodingTask(shape)), shape))
    let entropy = relativeError(values, decoded(try encoded(OffsetBlocks(), values, encodingTask(shape, offsets: search)), shape))
    search.score = .error
    let error = relativeError(values, decoded(try encoded(OffsetBlocks(), values, encodingTask(shape, offsets: search)), shape))
    #expect(error < 0.93 * plain && abs(entropy / plain - 1) < 0.03, "\(plain) \(entropy) \(error)")
  }

  private static func normal(_ random: inout Generator) -> Float {
    let (u, v) = (Double.random(in: 1e-12..<1, using: &random), Double.random(in: 0..<1, using: &random))
    let radius: Double = (-2 * log(u)).squareRoot()
    return Float(radius * cos(2 * Double.pi * v))
  }

  private func unpacked(_ codes: [UInt8], _ count: Int) -> [Int] {
    Array(codes.flatMap { [Int($0 >> 4), Int($0 & 15)] }.prefix(count))
  }

  /// The best score that any candidate has, each tried by the encoder itself.
  private func best(_ search: OffsetSearch, _ x: [Float]) -> (offset: Float, score: Double) {
    let sorted = x.sorted(), median = sorted[(x.count - 1) / 2], absmax = x.map { abs($0 - median) }.max() ?? 0
    var best = (offset: Float.nan, score: Double.infinity, distance: 0)
    for (index, factor) in search.factors.enumerated() {
      let offset = factor * absmax + median, codec = BlockCodec(.nf4, blockSize: 4096, nested: nil)
      let shifted = x.map { $0 - offset }
      var codes = [UInt8](repeating: 0, count: codec.codeBytes(x.count)), scale: Float = 0
      _ = Kernels.encode(codec, .nearest, .f32, shifted, count: x.count, codes: &codes, absmax: &scale, moments: nil)
      let found = unpacked(codes, x.count)
      var score = 0.0
      if search.score == .entropy {
        for code in 0..<16 {
          let count: Double = Double(found.filter { $0 == code }.count)
          let term: Double = count < 2 ? 0 : count * log2(count) * 0x1p20
          score += term.rounded(.toNearestOrEven)
        }
      } else {
        for (code, value) in zip(found, shifted) {
          let e = Double(value) - Double(scale) * Double(Codebook.nf4.values[code])
          score += e * e
        }
      }
      let distance = abs(index - search.steps)
      if score < best.score || score == best.score && search.order == .centre && distance < best.distance {
        best = (offset, score, distance)
      }
    }
    return (best.offset, best.score)
  }

  @Test("are the best of all candidates", arguments: OffsetSearch.Score.allCases, OffsetSearch.Order.allCases)
  func search(_ score: OffsetSearch.Score, _ order: OffsetSearch.Order) {
    var search = OffsetSearch()
    (search.score, search.order, search.steps) = (score, order, 20)
    var random = Generator(6)
    let blocks: [[Float]] = [
      (0..<64).map { _ in Self.normal(&random) }, (0..<61).map { _ in Self.normal(&random) * 1e-20 + 1e-20 },
      (0..<512).map { _ in Self.normal(&random) - 5 }, (0..<64).map { Float($0 % 3) }, [Float](repeating: 0.7, count: 64),
      [Float](repeating: 0, count: 32), [3], [-0.0, 0, 5, 5], (0..<2048).map { _ in Self.normal(&random) * 1e30 },
    ]
    for (index, x) in blocks.enumerated() {
      let found = found(search, x, block: 4096), wanted = best(search, x)
      #expect(found.ends == [x.min() ?? 0, x.max() ?? 0])
      if score == .entropy {
        #expect(found.offsets == [wanted.offset], "\(index)")
      } else {
        // Sums in another order: offsets may differ where their errors hardly do.
        let (a, b) = (error(x, found.offsets[0]), error(x, wanted.offset))
        #expect(a <= b + 1e-9 * abs(b) + 1e-12 * x.reduce(0) { $0 + Double($1) * Double($1) }, "\(index) \(a) \(b)")
      }
    }
  }

  private func error(_ x: [Float], _ offset: Float) -> Double {
    let codec = BlockCodec(.nf4, blockSize: 4096, nested: nil), shifted = x.map { $0 - offset }
    var codes = [UInt8](repeating: 0, count: codec.codeBytes(x.count)), scale: Float = 0
    _ = Kernels.encode(codec, .nearest, .f32, shifted, count: x.count, codes: &codes, absmax: &scale, moments: nil)
    var sum = 0.0
    for (code, value) in zip(unpacked(codes, x.count), shifted) {
      let e = Double(value) - Double(scale) * Double(Codebook.nf4.values[code])
      sum += e * e
    }
    return sum
  }

  static let codecs = [32, 64, 4096].flatMap { size in [BlockCodec.Nested(), nil].map { OffsetBlocks(blockSize: size, nested: $0) } }

  @Test("decode to value times scale, plus offset, rounded after each step", arguments: codecs, [DType.f32, .f16, .bf16])
  func decoding(_ codec: OffsetBlocks, _ dtype: DType) throws {
    var random = Generator(7)
    // Rows that blocks do not fit, and more than 256 blocks of 32.
    let shape = [89, 101], values = (0..<89 * 101).map { _ in Self.normal(&random) * 0.02 + 0.01 }
    let codes = try encoded(codec, values, encodingTask(shape))
    #expect(codes.sections.map(\.count) == codec.sections(.f32, shape).map(\.length))
    let scales = codec.blocks.restoredScales(Array(codes.sections.dropFirst().dropLast(2)), count: values.count)
    let (offsetCodes, offsetScales) = (codes.sections[codes.sections.count - 2], floats(codes.sections[codes.sections.count - 1]))
    let map = Codebook.dynamic.values
    var wanted = (0..<values.count).map { index -> Float in
      let pair = codes.sections[0][index / 2], block = index / codec.blocks.blockSize
      let value = Codebook.nf4.values[Int(index % 2 == 0 ? pair >> 4 : pair & 15)] * scales[block]
      return value + map[Int(offsetCodes[block])] * offsetScales[block / 256]
    }
    var rounded = [UInt8](repeating: 0, count: 4 * wanted.count)
    Kernels.narrow(dtype, wanted, count: wanted.count, &rounded)
    Kernels.widen(dtype, rounded, count: wanted.count, &wanted)
    #expect(same(decoded(codes, shape, as: dtype), wanted))
    #expect(relativeError(values, wanted) < (codec.blocks.blockSize == 4096 ? 0.16 : 0.1))
  }

  @Test("a value that is not finite is counted and leaves other blocks alone; blocks of any range and constants have codes")
  func cornerCases() throws {
    let codec = OffsetBlocks(blockSize: 32, nested: nil)
    for bad in [Float.nan, .infinity, -.infinity] {
      var values = [Float](repeating: 0.5, count: 96)
      values[3] = 0.25
      values[40] = bad
      let result = decoded(try encoded(codec, values, encodingTask([96])), [96])
      #expect(result[..<32].allSatisfy { abs($0 - 0.5) < 0.3 } && result[64...].allSatisfy { abs($0 - 0.5) < 1e-3 })
      let found = found(OffsetSearch(), values, block: 32)
      #expect(found.counts.nonfinite == 1 && found.offsets[1] == 0)
      // As in blocks without offsets, NaN has a code, and an infinite scale spoils its block.
      guard bad.isInfinite else { continue }
      #expect(result[32..<64].allSatisfy { !$0.isFinite || $0 == 0 } && !result[40].isFinite)
      #expect(throws: NibbleError.self) { _ = try encoded(OffsetBlocks(blockSize: 32), values, encodingTask([96])).sections.count }
    }
    let wide = (0..<32).map { $0 % 2 == 0 ? Float.greatestFiniteMagnitude : -.greatestFiniteMagnitude }
    #expect(decoded(try encoded(codec, wide, encodingTask([32])), [32]) == wide)
    for constant in [Float(0), 0.7, -3] {
      let values = [Float](repeating: constant, count: 70)
      #expect(decoded(try encoded(codec, values, encodingTask([70])), [70]).allSatisfy { abs($0 - constant) <= 1e-6 })
    }
  }

  @Test("of a tensor that has some stay what they are, and what is on its grid stays there")
  func kept() throws {
    var random = Generator(9)
    let shape = [16, 256], values = (0..<16 * 256).map { _ in Self.normal(&random) }
    for codec in [OffsetBlocks(), OffsetBlocks(nested: nil)] {
      let first = try encoded(codec, values, encodingTask(shape)), memory = Scratch()
      let onGrid = decoded(first, shape)
      var task = encodingTask(shape)
      task.source = codec.decoder(.f32, shape, Array(first.sections.dropFirst()), memory)
      let again = try encoded(codec, onGrid, task)
      #expect(again.sections.suffix(2) == first.sections.suffix(2))
      #expect(relativeError(onGrid, decoded(again, shape)) < 0.005)
      // Chosen anew, they would not.
      #expect(relativeError(onGrid, decoded(try encoded(codec, onGrid, encodingTask(shape)), shape)) > 0.05)
    }
  }

  @Test("threads change nothing")
  func threads() throws {
    var random = Generator(10)
    let shape = [600, 1000], values = (0..<600_000).map { _ in random.normal() }
    let one = try encoded(OffsetBlocks(), values, encodingTask(shape)), three = try encoded(OffsetBlocks(), values, encodingTask(shape, threads: 3))
    #expect(one.sections == three.sections)
  }

  @Test("parameters that make no sense are refused")
  func parameters() throws {
    let codec = OffsetBlocks()
    var good = CodecParameters(codebooks: codec.codebooks)
    codec.writeParameters(&good)
    let bytes = good.out.bytes
    func read(_ bytes: [UInt8]) -> (any WeightCodec)? {
      var parameters = CodecParameters(ByteReader(bytes, place: "test"), codebooks: codec.codebooks)
      guard let found = try? CodecKind.nf4Offsets.read(&parameters), parameters.input.isAtEnd else { return nil }
      return found
    }
    #expect(read(bytes) as? OffsetBlocks == codec && bytes.count == 24)
    // The block sizes of codes and offsets, the tables, the zero at the end.
    for (place, value) in [(0, 63), (16, 0), (19, 1), (20, 0), (21, 9), (22, 1), (13, 1)] {
      var bad = bytes
      bad[place] = UInt8(value)
      if place == 16 { bad.replaceSubrange(16..<20, with: [0, 0, 0, 0]) }
      #expect(read(bad) == nil, "\(place)")
    }
    #expect(read(Array(bytes.dropLast())) == nil && read(bytes + [0]) == nil)
  }

  @Test("searches are spelled as they are read", arguments: [
    ("icq", true), ("icq:error", true), ("icq:ascending:unrounded", true), ("icq:error:ascending:unrounded:steps=50", true),
    ("icq:", false), ("icqx", false), ("mse", false), ("icq:steps=-1", false), ("icq:steps=9999999", false),
  ])
  func text(_ text: String, _ isRight: Bool) {
    #expect(OffsetSearch(text: text)?.text == (isRight ? text : nil))
  }
}

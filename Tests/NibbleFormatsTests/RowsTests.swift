import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Rows of signed bytes")
struct RowsTests {
  let bench = Bench()

  @Test("are those of bitsandbytes' LLM.int8", arguments: ["a", "b"])
  func golden(_ name: String) throws {
    let golden = try TensorFile(fixture("int8_rowwise.safetensors"))
    func tensor(_ kind: String) throws -> StoredTensor { try #require(golden.tensor("\(name)/\(kind)")) }
    let weight = try tensor("weight_fp16")
    var values = try golden.floats(weight)
    let expected = try golden.integers(tensor("CB")), scales = try golden.floats(tensor("SCB"))
    let dequantized = try golden.floats(tensor("dequant_fp32"))
    let (rows, columns) = (weight.shape[0], weight.shape[1])
    var half = [UInt16](repeating: 0, count: values.count)
    RowCodec.throughHalf(&values, values.count, &half)
    var codes = [Int8](repeating: 0, count: values.count), found = [Float](repeating: 0, count: rows)
    for row in 0..<rows {
      values.withUnsafeBufferPointer { values in
        codes.withUnsafeMutableBufferPointer { codes in
          guard let from = values.baseAddress, let to = codes.baseAddress else { return }
          found[row] = RowCodec.absmax(from + row * columns, columns)
          RowCodec.encode(from + row * columns, columns, scale: found[row], to + row * columns)
        }
      }
    }
    #expect(found == scales)
    #expect(codes.map(Int.init) == expected)
    var decoded = [Float](repeating: 0, count: values.count)
    RowCodec.decode(codes, from: 0, count: codes.count, columns: columns, scales: scales, .f32, &decoded)
    for (x, y) in zip(decoded, dequantized) { #expect(abs(x - y) <= 2 * y.ulp) }
  }

  @Test("come back from a file, transposed or not, in any type", arguments: ["llama", "gpt2", "roberta"], [nil, DType.bf16])
  func thereAndBack(_ model: String, _ dtype: DType?) throws {
    let source = try Checkpoint.open(fixture("models/" + model))
    let report = try bench.quantize(source.path, "a.nbl") { $0.codec = .int8 }
    let packed = try Checkpoint.open(bench.folder.file("a.nbl"))
    #expect(!report.packed.isEmpty && report.packed.allSatisfy { $0.encoding == .int8 })
    #expect(try packed.verify().identity == report.identity)
    try bench.dequantize(bench.folder.file("a.nbl"), "plain", dtype)
    let plain = try Checkpoint.open(bench.folder.file("plain"))
    for tensor in source.tensors {
      let other = try #require(plain.tensor(tensor.name))
      #expect(other.shape == tensor.shape)
      let isPacked = packed.tensor(tensor.name)?.isPacked ?? false
      let columns = tensor.shape.last ?? 1
      var before: [Float] = [], after: [Float] = []
      try tensor.forEachValues { _, values, count, _ in before += UnsafeBufferPointer(start: values, count: count) }
      try other.forEachValues { _, values, count, _ in after += UnsafeBufferPointer(start: values, count: count) }
      // Half a step of the row, which in a transposed tensor is a column.
      let isTurned = packed.tensor(tensor.name)?.isTransposed ?? false
      var most = [Float](repeating: 0, count: max(columns, before.count / max(columns, 1)))
      for (i, value) in before.enumerated() {
        let row = isTurned ? i % columns : i / columns
        most[row] = max(most[row], abs(value))
      }
      for (i, (x, y)) in zip(before, after).enumerated() {
        let step = isPacked ? most[isTurned ? i % columns : i / columns] / 127 : 0
        #expect(abs(x - y) <= 0.505 * step + abs(x) * (dtype == nil ? 0.0005 : 0.0045))
      }
    }
  }

  @Test("are the same with any number of threads, and moved as they are")
  func moved() throws {
    for threads in [1, 3] {
      try bench.quantize(fixture("models/gpt2"), "\(threads).nbl", threads: threads) { $0.codec = .int8 }
    }
    #expect(try bench.bytes("1.nbl") == bench.bytes("3.nbl"))
    var spec = try bench.spec("c.nbl")
    spec.compression = CompressionChoice.zstd(3)
    _ = try StreamJob.convert(Checkpoint.open(bench.folder.file("1.nbl")), to: spec).run()
    try bench.convert(bench.folder.file("c.nbl"), "d.nbl", .nbl)
    #expect(try bench.bytes("1.nbl") == bench.bytes("d.nbl"))
    try bench.convert(bench.folder.file("1.nbl"), "bnb", .bnb)
    try bench.convert(bench.folder.file("bnb"), "e.nbl", .nbl)
    #expect(try bench.bytes("1.nbl") == bench.bytes("e.nbl"))
  }

  @Test("have no place among 4-bit tensors of a bitsandbytes checkpoint, nor without a module", arguments: ["fc", "c.weight"])
  func refused(_ name: String) throws {
    var model = SafetensorsBuilder()
    model.add("a.weight", [2, 2], [1, 2, 3, 4])
    model.add(name, [2, 2], [1, 2, 3, 4])
    _ = try bench.folder.write("m.safetensors", model.bytes)
    try bench.quantize(bench.folder.file("m.safetensors"), "m.nbl") {
      $0.codec = .int8
      $0.rules = [try PackingRule(name == "fc" ? "fc=int8" : "c.weight=nf4")]
    }
    let error = #expect(throws: NibbleError.self) { try bench.convert(bench.folder.file("m.nbl"), "bnb.safetensors", .bnb) }
    #expect(error?.kind == .usage && error?.subject == (name == "fc" ? "fc" : "a.weight"))
  }

  typealias Tensors = [(name: String, dtype: String, shape: [Int])]

  @Test(
    "that do not fit together are refused by name",
    arguments: [
      ("there are scales and no weight", [("a.SCB", "F32", [2])]),
      ("scales of F32 and shape [3] for 2 rows", [("a.weight", "I8", [2, 2]), ("a.SCB", "F32", [3])]),
      ("scales of F16 and shape [2] for 2 rows", [("a.weight", "I8", [2, 2]), ("a.SCB", "F16", [2])]),
      ("U8 of shape [2, 2], expected a matrix of I8", [("a.weight", "U8", [2, 2]), ("a.SCB", "F32", [2])]),
      ("I8 of shape [0, 2], expected a matrix of I8", [("a.weight", "I8", [0, 2]), ("a.SCB", "F32", [0])]),
      (
        "its weight_format is not 0",
        [("a.weight", "I8", [2, 2]), ("a.SCB", "F32", [2]), ("a.weight_format", "U8", [])]
      ),
    ] as [(String, Tensors)])
  func doesNotFit(_ reason: String, _ tensors: Tensors) throws {
    var model = SafetensorsBuilder()
    for (name, dtype, shape) in tensors {
      let width = ["F32": 4, "F16": 2][dtype] ?? 1
      model.add(name, dtype, shape, [UInt8](repeating: 1, count: width * shape.reduce(1, *)))
    }
    let path = try bench.folder.write("m.safetensors", model.bytes)
    let error = #expect(throws: NibbleError.self) { try Checkpoint.open(path) }
    #expect(error?.kind == .badInput && error?.path == path && error?.subject == "a.weight")
    #expect(error?.message.contains("LLM.int8 weight \(quoted("a.weight")): \(reason)") == true)
  }

  @Test("of zeros and of one element are what they are")
  func corners() throws {
    var model = SafetensorsBuilder()
    model.add("zero.weight", [3, 4], [0, 0, 0, 0, 1, -2, 0, 0.5, 0, 0, 0, 0])
    model.add("one.weight", [5, 1], [1, -1, 0, 6e4, 3e-8])
    _ = try bench.folder.write("m.safetensors", model.bytes)
    try bench.quantize(bench.folder.file("m.safetensors"), "m.nbl") { $0.codec = .int8 }
    let packed = try Checkpoint.open(bench.folder.file("m.nbl"))
    func values(_ name: String) throws -> [Float] {
      var all: [Float] = []
      try #require(packed.tensor(ByteName(name))).forEachValues { _, values, count, _ in
        all += UnsafeBufferPointer(start: values, count: count)
      }
      return all
    }
    let zero = try values("zero.weight")
    #expect(Array(zero[..<4]) == [0, 0, 0, 0] && Array(zero[8...]) == [0, 0, 0, 0] && abs(zero[5] + 2) < 1e-6)
    // What is too small for float16 is nothing in bitsandbytes too.
    for (x, y) in zip(try values("one.weight"), [1, -1, 0, 6e4, 5.9604645e-8] as [Float]) { #expect(abs(x - y) <= 1e-3 * abs(y)) }
  }

  @Test("with a NaN have no scale, wherever it stands", arguments: [0, 3, 8, 15, 16, 20])
  func notANumber(_ place: Int) {
    var values = (0..<21).map { Float($0) }
    values[place] = .nan
    #expect(values.withUnsafeBufferPointer { $0.baseAddress.map { RowCodec.absmax($0, 21) } }?.isNaN == true)
  }

  @Test("are counted whole where one value is not finite: none of them comes back")
  func wholeRow() throws {
    var model = SafetensorsBuilder()
    model.add("a.weight", [3, 4], [1, 2, 3, 4, 1, .infinity, 3, 4, .nan, 2, 1e6, 1])
    _ = try bench.folder.write("m.safetensors", model.bytes)
    var options = QuantizeOptions()
    options.codec = .int8
    var job = try StreamJob.quantize(Checkpoint.open(bench.folder.file("m.safetensors")), options, to: bench.spec("m.nbl"))
    job.allowsNonfinite = true
    #expect(try job.run().nonfinite == 8)
  }

  @Test("beyond float16 are refused unless that is allowed")
  func tooLarge() throws {
    var model = SafetensorsBuilder()
    model.add("a.weight", [1, 2], [1, 1e6])
    _ = try bench.folder.write("m.safetensors", model.bytes)
    let error = #expect(throws: NibbleError.self) {
      try bench.quantize(bench.folder.file("m.safetensors"), "m.nbl") { $0.codec = .int8 }
    }
    #expect(error?.kind == .quality)
  }
}

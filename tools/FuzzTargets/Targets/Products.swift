@testable import NibbleCompute
import NibbleCore
import NibbleQuant

/// A product of a drawn size with a weight stored in a drawn way, by every kernel this machine has, against sums in float64. The bytes say
/// how many rows, inputs, outputs, and what the numbers are.
func fuzzProducts(_ input: Input) throws {
  guard input.bytes.count >= 5 else { return }
  let number = input.bytes.map(Int.init)
  let rows = 1 + number[0] % 40, outputs = 1 + number[3] % 80
  // Blocks of ggml are whole in a row.
  let inputs = number[2] < 128 ? 1 + number[1] + 256 * (number[2] % 3) : number[2] < 192 ? 32 * (1 + number[1] % 24) : 256 * (1 + number[1] % 3)
  var seed = UInt64(number[4]) << 8 | UInt64(input.choice)
  func values(_ count: Int) -> [Float] {
    (0..<count).map { _ in
      seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Float(Int64(bitPattern: seed) >> 40) / 0x1p23
    }
  }
  let weight = values(outputs * inputs), x = values(rows * inputs)
  guard let matrix = try stored(weight, outputs, inputs, input.choice) else { return }
  let restored = FloatStore(count: outputs * inputs)
  matrix.rows(0..<outputs, into: restored.start)
  var expected = [Double](repeating: 0, count: rows * outputs), sizes = expected
  for output in 0..<outputs {
    // Where groups have zeros, code and zero are factors of their own, each at most twice the greatest weight.
    let largest = restored.values[(output * inputs)..<((output + 1) * inputs)].reduce(0) { max($0, abs($1)) }
    let apart = matrix.offsets == nil ? 0 : 4 * Double(largest)
    for row in 0..<rows {
      for k in 0..<inputs {
        let term = Double(x[row * inputs + k]) * Double(restored.start[output * inputs + k])
        expected[row * outputs + output] += term
        sizes[row * outputs + output] += abs(term) + apart * Double(abs(x[row * inputs + k]))
      }
    }
  }
  let team = Team(threads: 1)
  for variant in KernelVariant.allCases where variant.runs {
    for compute in Compute.allCases {
      let engine = Engine(compute, team: team, variant: variant)
      var y = [Float](repeating: .nan, count: rows * outputs)
      y.withUnsafeMutableBufferPointer { y in
        guard let start = y.baseAddress else { return }
        engine.multiply(x, rows: rows, stride: inputs, [Engine.Product(matrix, start, stride: outputs)])
      }
      // Rounding to bfloat16 moves a factor by 2⁻⁹ at most, float32 sums by less than 2⁻²⁴ a term.
      let tolerance = compute == .bf16 ? 0x1.1p-7 : Double(inputs + 8) * 0x1p-22
      for place in y.indices {
        let isNear = abs(Double(y[place]) - expected[place]) <= tolerance * sizes[place] + 1e-30
        expect(isNear, "\(variant) \(compute) \(rows)x\(inputs)x\(outputs): \(y[place]) is \(expected[place])")
      }
    }
  }
}

/// nil for shapes the codec does not take.
private func stored(_ weight: [Float], _ outputs: Int, _ inputs: Int, _ choice: UInt8) throws -> Matrix? {
  let plain = [DType.f32, .f16, .bf16]
  let codecs: [any WeightCodec] = [
    BlockCodec(.nf4), BlockCodec(.nf4, nested: nil), BlockCodec(.fp4, blockSize: 32), BlockCodec(.nf4, blockSize: 4096), Int8Rows(),
    Int4Groups(size: 32), Int4Groups(size: 32, zero: .none), Int4Groups(size: 0, scale: .f32, zero: .float),
  ] + GGMLType.all.filter { $0.dtype == nil }.map { GGMLBlocks($0) }
  let index = Int(choice) % (plain.count + codecs.count)
  if index < plain.count {
    let store = FloatStore(count: weight.count)
    Kernels.narrow(plain[index], weight, count: weight.count, store.start)
    let bytes = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(store.values)[..<(weight.count * plain[index].bitWidth / 8)])
    return Matrix(plain[index], rows: outputs, columns: inputs, bytes, owner: store)
  }
  let codec = codecs[index - plain.count]
  guard codec.refusal(.f32, [outputs, inputs]) == nil else { return nil }
  var weight = weight
  let task = EncodingTask(
    .f32, [outputs, inputs], place: "drawn", rules: .nearest, search: .absmax, threads: 1, pool: ScratchPool(), measures: false,
    memory: Scratch())
  return try Matrix(codec.encoded(&weight, task), .f32, rows: outputs, columns: inputs)
}

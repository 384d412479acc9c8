// Times the block kernels on one core, each variant this machine has, and products on several: what tools/bench prints first.
//
//   KernelBench [THREADS]

import COpenBLAS
import Glibc
import NibbleCompute
import NibbleCore
import NibbleQuant

let elements = 1 << 18  // 512 KiB of bf16, as the stream hands them over
let seconds = 0.4

/// GB/s of `bytes` per run, best of many runs.
func measure(_ bytes: Int, _ body: () -> Void) -> Double {
  body()
  var best = Double.infinity
  let end = monotonicSeconds() + seconds
  repeat {
    let start = monotonicSeconds()
    for _ in 0..<4 { body() }
    best = min(best, (monotonicSeconds() - start) / 4)
  } while monotonicSeconds() < end
  return Double(bytes) / best / 1e9
}

nonisolated(unsafe) var state: UInt64 = 88_172_645_463_325_252
func random() -> Float {
  var sum: Float = 0
  for _ in 0..<4 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    sum += Float(Int32(truncatingIfNeeded: state)) / Float(Int32.max)
  }
  return sum * 0.02
}

func bench(_ variant: KernelVariant, _ code: BlockCodec.Code, _ dtype: DType, _ blockSize: Int) -> (
  encode: Double, decode: Double
) {
  let codec = BlockCodec(code, blockSize: blockSize)
  let bytes = elements * dtype.bitWidth / 8
  let scratch = Scratch()
  let values = scratch.floats(0, elements)
  for index in values.indices { values[index] = random() }
  let input = scratch.bytes(1, bytes)
  let codes = scratch.bytes(2, codec.codeBytes(elements))
  let absmax = scratch.floats(3, codec.blocks(elements))
  let moments = scratch.floats(4, 3 * codec.blocks(elements))
  guard let x = input.baseAddress, let wide = values.baseAddress, let scales = absmax.baseAddress, let sums = moments.baseAddress,
    let packed = codes.baseAddress?.assumingMemoryBound(to: UInt8.self)
  else { return (0, 0) }
  Kernels.narrow(dtype, wide, count: elements, x)
  let encode = measure(bytes) {
    _ = Kernels.encode(codec, .nearest, dtype, x, count: elements, codes: packed, absmax: scales, moments: sums, variant: variant)
  }
  let decode = measure(bytes) {
    Kernels.decode(codec, codes: packed, count: elements, absmax: scales, dtype, x, variant: variant)
  }
  return (encode, decode)
}

let variants = KernelVariant.allCases.filter(\.runs)
for (label, text) in ComputeSetting.rows() { print(label.isEmpty ? "  \(text)" : "\(label): \(text)") }
if DotProduct.measured() > 0 {
  print(
    "products of the bfloat16 dot product for one of the float32 multiply-add, measured: \(decimal(DotProduct.measured(), 2))")
}
print("")
print("one core, buffers of \(elements) elements, error sums included in encode; GB/s of input (encode) or output (decode)")
for (title, code, dtype, blockSize) in [
  ("NF4 bf16, block 64", BlockCodec.Code.nf4, DType.bf16, 64), ("NF4 bf16, block 256", .nf4, .bf16, 256),
  ("NF4 fp16, block 64", .nf4, .f16, 64), ("NF4 fp32, block 64", .nf4, .f32, 64), ("FP4 bf16, block 64", .fp4, .bf16, 64),
] {
  var line = title + String(repeating: " ", count: max(0, 22 - title.count))
  for variant in variants {
    let (encode, decode) = bench(variant, code, dtype, blockSize)
    line += "  \(variant.rawValue): \(decimal(encode, 1)) / \(decimal(decode, 1))"
  }
  print(line)
}

/// GB/s of bf16 read by the search for scales, of one sign or both.
func benchSearch(_ variant: KernelVariant, bothSigns: Bool) -> Double {
  let codec = BlockCodec(.nf4)
  let scratch = Scratch()
  let values = scratch.floats(0, elements)
  for index in values.indices { values[index] = random() }
  guard let x = scratch.bytes(1, 2 * elements).baseAddress, let wide = values.baseAddress,
    let scales = scratch.floats(2, codec.blocks(elements)).baseAddress
  else { return 0 }
  Kernels.narrow(.bf16, wide, count: elements, x)
  return measure(2 * elements) {
    _ = Kernels.searchScales(codec, bothSigns: bothSigns, .bf16, x, count: elements, scales: scales, variant: variant)
  }
}

print(
  "search for NF4 scales, positive / signed, GB/s of bf16: "
    + variants.map {
      "  \($0.rawValue): \(decimal(benchSearch($0, bothSigns: false), 2)) / \(decimal(benchSearch($0, bothSigns: true), 2))"
    }.joined())

// Products with a matrix of 2048 inputs and 8192 outputs.

let outputs = 8192, inputs = 2048

/// Memory of zeros that lives as long as the program.
func memory(_ bytes: Int) -> UnsafeMutableRawPointer {
  let made = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
  memset(made, 0, bytes)
  return made
}

func randomFloats(_ count: Int) -> UnsafeMutablePointer<Float> {
  let made = memory(4 * count).assumingMemoryBound(to: Float.self)
  for index in 0..<count { made[index] = random() }
  return made
}

/// The matrix in NF4 with double quantization; scale codes of any value serve here.
func codedMatrix(_ values: UnsafePointer<Float>) -> MatrixView {
  let codec = BlockCodec(.nf4), count = outputs * inputs
  let codes = memory(codec.codeBytes(count)).assumingMemoryBound(to: UInt8.self)
  let absmax = memory(4 * codec.blocks(count)).assumingMemoryBound(to: Float.self)
  _ = Kernels.encode(codec, .nearest, .f32, values, count: count, codes: codes, absmax: absmax, moments: nil)
  let scaleCodes = memory(codec.blocks(count)).assumingMemoryBound(to: UInt8.self)
  for index in 0..<codec.blocks(count) { scaleCodes[index] = UInt8(truncatingIfNeeded: index &* 37) }
  let nested = memory(4 * codec.nestedBlocks(count)).assumingMemoryBound(to: Float.self)
  for index in 0..<codec.nestedBlocks(count) { nested[index] = 0.01 }
  let codebook = memory(64).assumingMemoryBound(to: Float.self), map = memory(1024).assumingMemoryBound(to: Float.self)
  for (index, value) in codec.codebook.values.enumerated() { codebook[index] = value }
  for (index, value) in Codebook.dynamic.values.enumerated() { map[index] = value }
  return MatrixView(
    rows: outputs, columns: inputs, codes: codes, blockSize: 64, codebook: codebook, scaleCodes: scaleCodes, scaleMap: map,
    nestedScales: nested, nestedBlockSize: 256, offset: 0.03)
}

nonisolated(unsafe) let x = randomFloats(512 * outputs), y = memory(4 * 512 * outputs).assumingMemoryBound(to: Float.self)

/// Seconds of one product, packing of x left out.
func product(
  _ w: MatrixView, _ compute: Compute, m: Int, transposed: Bool, _ variant: KernelVariant, _ team: Team = Team(threads: 1)
)
  -> Double
{
  let k = transposed ? outputs : inputs, n = transposed ? inputs : outputs
  let packed = memory(ProductKernels.packedBytes(compute, m: m, k: k, variant: variant))
  defer { packed.deallocate() }
  ProductKernels.pack(compute, x, m: m, k: k, stride: k, into: packed, variant: variant)
  let parts = team.threads == 1 ? 1 : 16 * team.threads
  let length = ceilDivide(n, parts * 64) * 64
  return 1
    / measure(1_000_000_000) {
      team.run(ceilDivide(n, length)) { part, scratch in
        let range = part * length..<min((part + 1) * length, n)
        (transposed ? ProductKernels.multiplyTransposed : ProductKernels.multiply)(
          compute, w, packed, m, range, false, y, n,
          scratch.start(0, ProductKernels.scratchBytes(compute, w, m: m, count: range.count, variant: variant)), variant)
      }
    }
}

func column(_ text: String) -> String { String(repeating: " ", count: max(0, 12 - text.count)) + text }

let values = randomFloats(outputs * inputs)
let bf16 = memory(2 * outputs * inputs)
Kernels.narrow(.bf16, values, count: outputs * inputs, bf16)
/// The matrix as signed bytes with a scale a row.
func byteMatrix(_ values: UnsafePointer<Float>) -> MatrixView {
  let codes = memory(outputs * inputs).assumingMemoryBound(to: Int8.self)
  let scales = memory(4 * outputs).assumingMemoryBound(to: Float.self)
  for row in 0..<outputs {
    scales[row] = RowCodec.absmax(values + row * inputs, inputs)
    RowCodec.encode(values + row * inputs, inputs, scale: scales[row], codes + row * inputs)
  }
  return MatrixView(rows: outputs, columns: inputs, bytes: codes, scales: scales)
}

let matrices = [
  ("NF4", codedMatrix(values)), ("BF16", MatrixView(rows: outputs, columns: inputs, .bf16, bf16)),
  ("F32", MatrixView(rows: outputs, columns: inputs, .f32, values)), ("INT8", byteMatrix(values)),
]
print("\nproducts with a matrix of \(inputs) inputs, \(outputs) outputs, one core, scales restored on the way; GFLOP/s")
print("                            " + ["1 row", "GB/s read", "32 rows", "512 rows", "512 back"].map(column).joined())
for variant in variants where variant != .portable {
  for (compute, stored) in [(Compute.bf16, 0), (.bf16, 3), (.bf16, 1), (.bf16, 2), (.f32, 0), (.f32, 3), (.f32, 1), (.f32, 2)] {
    let (name, w) = matrices[stored]
    let flops = 2e-9 * Double(outputs * inputs)
    let bytes = 1e-9 * Double(outputs * inputs) * [0.5, 2, 4, 1][stored]
    let one = product(w, compute, m: 1, transposed: false, variant)
    var line = "\(variant.rawValue) \(name) in \(compute.rawValue)"
    line +=
      String(repeating: " ", count: max(0, 28 - line.count)) + column(decimal(flops / one, 0)) + column(decimal(bytes / one, 1))
    for (m, transposed) in [(32, false), (512, false), (512, true)] {
      line += column(decimal(flops * Double(m) / product(w, compute, m: m, transposed: transposed, variant), 0))
    }
    print(line)
  }
}
openblas_set_num_threads(1)
var line = "OpenBLAS \(String(cString: openblas_get_corename())) sgemm"
line += String(repeating: " ", count: max(0, 28 - line.count))
for m in [1, 0, 32, 512] {
  if m == 0 {
    line += column("")
    continue
  }
  let seconds =
    1
    / measure(1_000_000_000) {
      cblas_sgemm(
        CblasRowMajor, CblasNoTrans, CblasTrans, Int32(m), Int32(outputs), Int32(inputs), 1, x, Int32(inputs), values,
        Int32(inputs),
        0, y, Int32(outputs))
    }
  line += column(decimal(2e-9 * Double(m * outputs * inputs) / seconds, 0))
}
print(line)

// Products as models make them, where offsets of int4 are a term of the sums of groups.

let codecs: [(String, any WeightCodec)] = [
  ("NF4, block 64", BlockCodec(.nf4)), ("int4, group 64, zeros", Int4Groups(size: 64)),
  ("int4, group 64, symmetric", Int4Groups(size: 64, zero: .none)), ("int4, group 32, zeros", Int4Groups(size: 32)),
  ("int4, group 128, symmetric", Int4Groups(size: 128, zero: .none)), ("int4, a row, zeros", Int4Groups(size: 0)),
]
let stored = try codecs.map { name, codec in
  let task = EncodingTask(
    .bf16, [outputs, inputs], place: "bench", rules: .nearest, search: .absmax, threads: 1, pool: ScratchPool(), measures: false,
    memory: Scratch())
  return (name, try Matrix(codec.encoded(values, task), .bf16, rows: outputs, columns: inputs))
}
print("\nproducts by the engine, one core, GFLOP/s, and the speed relative to NF4's, the median of five pairs")
print("                            " + ["1 row", "", "32 rows", "", "512 rows", "", "512 back", ""].map(column).joined())
for compute in Compute.allCases {
  let engine = Engine(compute, team: Team(threads: 1))
  func seconds(_ matrix: Matrix, _ m: Int, back: Bool) -> Double {
    let own = back ? matrix.turned : matrix
    return 1 / measure(1_000_000_000) { engine.multiply(x, rows: m, stride: own.inputs, [Engine.Product(own, y, stride: own.outputs)]) }
  }
  for (name, matrix) in stored {
    var line = "\(name) in \(compute.rawValue)"
    line += String(repeating: " ", count: max(0, 34 - line.count))
    for (m, back) in [(1, false), (32, false), (512, false), (512, true)] {
      let pairs = (0..<5).map { _ in (seconds(matrix, m, back: back), seconds(stored[0].1, m, back: back)) }
      let ratios = pairs.map { $1 / $0 }.sorted()
      let best = pairs.map(\.0).min() ?? 1
      line += column(decimal(2e-9 * Double(m * outputs * inputs) / best, 0)) + column(decimal(ratios[2], 2))
    }
    print(line)
  }
}

// The same on all cores.

let threads = CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 2
print("\n\(threads) threads, times as fast as one")
print("                            " + ["1 row", "", "32 rows", "512 rows", "512 back"].map(column).joined())
for (compute, stored) in [(Compute.bf16, 0), (.f32, 0)] {
  let team = Team(threads: threads)
  var line = "\(KernelVariant.current.rawValue) \(matrices[stored].0) in \(compute.rawValue)"
  line += String(repeating: " ", count: max(0, 28 - line.count))
  for (m, transposed) in [(1, false), (0, false), (32, false), (512, false), (512, true)] {
    guard m > 0 else {
      line += column("")
      continue
    }
    // One after the other, as the machine may change its pace.
    var ratios: [Double] = []
    for _ in 0..<5 {
      let one = product(matrices[stored].1, compute, m: m, transposed: transposed, .current)
      ratios.append(one / product(matrices[stored].1, compute, m: m, transposed: transposed, .current, team))
    }
    line += column(decimal(ratios.sorted()[2], 2))
  }
  print(line)
}

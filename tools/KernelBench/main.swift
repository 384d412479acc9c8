// Times the block kernels on one core, each variant this machine has: what tools/bench prints first.

import Glibc
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

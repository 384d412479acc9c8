import CNibbleKernels
import NibbleCompute
import NibbleCore
import NibbleQuant
import TestSupport
import Testing

@Suite("A storage without kernels of its own")
struct StorageTests {
  /// Signed bytes, multiples of a step: all that products need is a way to decode a run.
  private nonisolated(unsafe) static let bytes: UnsafePointer<nibble_storage> = {
    let storage = UnsafeMutablePointer<nibble_storage>.allocate(capacity: 1)
    storage.initialize(
      to: nibble_storage(
        together: 1, size: 1, blocks: 0, bytes: 0,
        run: { variant, matrix, element, count, number, out in
          guard let matrix, let out, let step = matrix.pointee.more?.load(as: Float.self) else { return }
          for index in 0..<count {
            let code = matrix.pointee.data.load(fromByteOffset: element + index, as: Int8.self)
            var value = step * Float(code)
            nibble_narrow(variant, number, &value, 1, out + index * (number == nibble_f32 ? 4 : 2))
          }
        }))
    return UnsafePointer(storage)
  }()

  private final class Memory: @unchecked Sendable {
    let codes: UnsafeMutablePointer<Int8>
    let step = UnsafeMutablePointer<Float>.allocate(capacity: 1)
    init(_ values: [Int8], step: Float) {
      codes = .allocate(capacity: values.count)
      codes.initialize(from: values, count: values.count)
      self.step.initialize(to: step)
    }
    deinit {
      codes.deallocate()
      step.deallocate()
    }
  }

  @Test(
    "multiplies both ways as plain numbers do, with any kernels",
    arguments: KernelVariant.allCases.filter(\.runs), Compute.allCases)
  func products(_ variant: KernelVariant, _ compute: Compute) throws {
    var random = Generator(3)
    let (rows, columns) = (70, 136)
    // Sixteenths of at most 8 are exact in bfloat16: both computes see the same numbers.
    let codes = (0..<rows * columns).map { _ in Int8.random(in: -127...127, using: &random) }
    let memory = Memory(codes, step: 1 / 16)
    let engine = Engine(compute, team: Team(threads: 2), variant: variant)
    for isTransposed in [false, true] {
      let stored = Matrix(
        rows: rows, columns: columns, Self.bytes, data: memory.codes, more: memory.step, isTransposed: isTransposed,
        owners: [memory])
      let plain = Matrix(codes.map { Float($0) / 16 }, rows: rows, columns: columns, isTransposed: isTransposed)
      for m in [1, 3, 8, 40] {
        let x = FloatStore((0..<m * stored.inputs).map { _ in random.normal() })
        let (y, z) = (FloatStore(count: m * stored.outputs), FloatStore(count: m * stored.outputs))
        engine.multiply(x.start, rows: m, stride: stored.inputs, [.init(stored, y.start, stride: stored.outputs)])
        engine.multiply(x.start, rows: m, stride: stored.inputs, [.init(plain, z.start, stride: stored.outputs)])
        let size = (0..<z.count).reduce(Float(0)) { max($0, abs(z.start[$1])) }
        // Sums of 136 products in another order; with few rows a variant may keep more than bfloat16 of x.
        let tolerance: Float = compute == .f32 ? 2e-6 : 1e-2
        for index in 0..<y.count { #expect(abs(y.start[index] - z.start[index]) <= tolerance * size) }
      }
    }
  }
}

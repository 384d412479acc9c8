// Times steps of optimizers, float32 states beside states in 8 bits, pair by pair in one run; or one optimizer with its peak memory.
//
//   OptimizerBench [NUMBERS [THREADS]]                   pairs, medians of seven
//   OptimizerBench NUMBERS THREADS NAME [FOLDER]         one by its name, paged in FOLDER if it ends in -paged

import Glibc
import NibbleCompute
import NibbleCore
import NibbleQuant
import NibbleTraining

let arguments = CommandLine.arguments.dropFirst().map { $0 }
let count = arguments.first.flatMap { Int($0) } ?? 1 << 26
let threads = arguments.count > 1 ? Int(arguments[1]) ?? 1 : 1
// Tensors as a model of that size has them.
let columns = 2048, rows = 4096
nonisolated(unsafe) let tensors: [TrainedTensor] = stride(from: 0, to: count, by: rows * columns).map { first in
  let own = min(rows, max(1, (count - first) / columns))
  let tensor = TrainedTensor("t\(first)", [own, columns], FloatStore(count: own * columns))
  for i in 0..<own * columns {
    tensor.values.start[i] = Float(i % 1009) * 1e-3
    tensor.gradient.start[i] = Float(i % 37 - 18) * Float(i % 101) * 1e-4
  }
  return tensor
}
let team = Team(threads: threads)
let numbers = tensors.reduce(0) { $0 + $1.values.count }

func optimizer(_ name: String, in folder: String? = nil) throws -> Optimizer {
  var options = OptimizerOptions()
  guard let choice = try OptimizerChoice(named: name) else { throw NibbleError.usage("no optimizer \(quoted(name))") }
  (options.choice, options.momentum, options.weightDecay) = (choice, 0.9, 0.01)
  let made = Optimizer(options, tensors, team: team)
  try made.prepare(in: folder)
  return made
}

func seconds(_ optimizer: Optimizer) throws -> Double {
  let started = monotonicSeconds()
  try optimizer.step(rate: 1e-4)
  return monotonicSeconds() - started
}

func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

if arguments.count > 2 {
  let one = try optimizer(arguments[2], in: arguments.count > 3 ? arguments[3] : nil)
  let times = try (0..<4).map { _ in try seconds(one) }
  print(
    "\(arguments[2]): \(numbers) numbers, \(decimal(median(times), 2)) s a step, peak memory \(byteText(ResourceUse.now.peakBytes)), "
      + "states \(byteText(Optimizer.stateBytes(one.options, tensors))), of them in memory \(byteText(one.residentStates))")
} else {
  print("\(numbers) numbers, \(threads) threads, \(KernelChoice.current.summary)")
  for name in ["adamw", "lion", "sgd"] {
    let (wide, narrow) = (try optimizer(name), try optimizer(name + "-8bit"))
    var pairs: [(Double, Double)] = []
    for _ in 0..<8 { pairs.append((try seconds(wide), try seconds(narrow))) }
    // The first touches fresh pages.
    pairs.removeFirst()
    print(
      "\(name): float32 \(decimal(1e9 * median(pairs.map(\.0)) / Double(numbers), 2)) ns a number, 8 bits "
        + "\(decimal(1e9 * median(pairs.map(\.1)) / Double(numbers), 2)), ratio \(decimal(median(pairs.map { $0.1 / $0.0 }), 2))")
  }
}

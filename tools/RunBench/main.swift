// Times what running a model takes: opening it, attaching and switching adapters, reading a prompt, generating. Ids are random,
// so no tokenizer is needed.
//
//   RunBench MODEL [--adapter DIR]... [--threads N] [--compute fp32|bf16] [--prompt N] [--new N] [--rows N] [--rounds N]

import Foundation
import NibbleCompute
import NibbleCore
import NibbleModels
import NibbleQuant

var adapters: [String] = []
var values = ["--threads": "1", "--compute": "bf16", "--prompt": "128", "--new": "48", "--rows": "1", "--rounds": "5"]
var words = Array(CommandLine.arguments.dropFirst())
guard !words.isEmpty else {
  print("RunBench MODEL [--adapter DIR]... [--threads N] [--compute fp32|bf16] [--prompt N] [--new N] [--rows N] [--rounds N]")
  exit(2)
}
let path = words.removeFirst()
while words.count > 1 {
  let flag = words.removeFirst()
  let value = words.removeFirst()
  if flag == "--adapter" { adapters.append(value) } else { values[flag] = value }
}
@MainActor func number(_ flag: String) -> Int { Int(values[flag] ?? "") ?? 1 }
func milliseconds(_ body: () throws -> Void) rethrows -> Double {
  let start = monotonicSeconds()
  try body()
  return (monotonicSeconds() - start) * 1000
}
func median(_ values: [Double]) -> Double { values.isEmpty ? .nan : values.sorted()[values.count / 2] }
func line(_ label: String, _ value: Double, _ unit: String) {
  print(label.padding(toLength: 34, withPad: " ", startingAt: 0) + String(format: "%10.3f ", value) + unit)
}

do {
  let compute = Compute(rawValue: values["--compute"] ?? "") ?? .bf16
  print(
    "kernels \(KernelVariant.current.rawValue), \(number("--threads")) threads, compute \(compute.rawValue), OpenBLAS \(BLAS.coreName ?? "none")"
  )
  var opened: Model?
  line("open the model", try milliseconds { opened = try Model(path, precision: compute, threads: number("--threads")) }, "ms")
  guard let model = opened else { exit(1) }
  line("anonymous memory then", Double(ResourceUse.anonymousBytes) / 1e6, "MB")
  let set = AdapterSet(model)
  for (index, adapter) in adapters.enumerated() {
    line("attach adapter \(index)", try milliseconds { try set.attach(adapter, as: "\(index)") }, "ms")
  }
  if !adapters.isEmpty {
    let rounds = 1000
    var used = 0
    let time = try milliseconds {
      for round in 0..<rounds { used += try set.selection([("\(round % adapters.count)", 1)]).count }
    }
    line("switch between adapters", time / Double(rounds), "ms (\(used / rounds) in use)")
  }
  let random = CountedRandom(seed: 1), vocabulary = try model.vocabularySize
  func ids(_ count: Int, _ row: Int) -> [Int] {
    (0..<count).map { Int(random.bits(UInt64(row * 100_000 + $0)) % UInt64(vocabulary)) }
  }
  // One use after another, again and again: what else the machine does falls on all of them. The first round touches pages
  // that have yet to be mapped.
  let uses = try [[]] + set.names.map { try set.selection([($0, 1)]) }
  let labels = [""] + set.names.map { ", adapter \($0)" }
  let rows = number("--rows")
  var rates: [[(prompt: Double, new: Double)]] = uses.map { _ in [] }
  for round in 0...number("--rounds") {
    for (index, active) in uses.enumerated() {
      var timing = Generator.Timing()
      let requests = (0..<rows).map { Generator.Request(ids(number("--prompt"), $0), adapters: active) }
      _ = try Generator(model, sampling: Sampling(), maximumNew: number("--new"), endIDs: []).run(
        requests, timing: &timing)
      guard round > 0 else { continue }
      rates[index].append(
        (Double(rows * number("--prompt")) / timing.promptSeconds, Double(rows * (number("--new") - 1)) / timing.decodeSeconds))
    }
  }
  for (label, rates) in zip(labels, rates) {
    line("prompt\(label)", median(rates.map(\.prompt)), "tokens/s")
    line("generation\(label)", median(rates.map(\.new)), "tokens/s")
  }
  for (label, with) in zip(labels, rates).dropFirst() {
    line("prompt loses\(label)", 100 * median(zip(rates[0], with).map { 1 - $1.prompt / $0.prompt }), "%")
    line("generation loses\(label)", 100 * median(zip(rates[0], with).map { 1 - $1.new / $0.new }), "%")
  }
  line("anonymous memory", Double(ResourceUse.anonymousBytes) / 1e6, "MB")
  line("peak memory, mapped file included", Double(ResourceUse.now.peakBytes) / 1e6, "MB")
} catch {
  FileHandle.standardError.write(Data("RunBench: \(error)\n".utf8))
  exit(1)
}

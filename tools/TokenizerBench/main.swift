// How fast tokenizers open and encode, on one core: TokenizerBench TEXT TOKENIZER…
import Glibc
import NibbleCore
import NibbleTokenizers

guard CommandLine.arguments.count >= 3 else {
  print("usage: TokenizerBench TEXT TOKENIZER…")
  exit(2)
}
let path = CommandLine.arguments[1]
let file = try InputFile(path)
let text = String(decoding: try file.bytes(at: 0, count: file.size), as: UTF8.self)
let letters = String(repeating: "a", count: 1 << 20)
let spaces = String(repeating: " ", count: 1 << 20) + "a"

/// The least time of several runs; others on the machine only ever add to it.
func best<R>(_ runs: Int, _ body: () throws -> R) rethrows -> (seconds: Double, result: R) {
  var least = Double.infinity
  var result: R
  var run = 0
  repeat {
    let start = monotonicSeconds()
    result = try body()
    least = min(least, monotonicSeconds() - start)
    run += 1
  } while run < runs
  return (least, result)
}

print("\(path): \(text.utf8.count) bytes")
for name in CommandLine.arguments.dropFirst(2) {
  let (openSeconds, tokenizer) = try best(3) { try Tokenizer.open(name) }
  let (firstSeconds, encoding) = try best(1) { try Tokenizer.open(name).encode(text) }
  let (seconds, _) = try best(5) { try tokenizer.encode(text) }
  let (decodeSeconds, _) = try best(3) { try tokenizer.decode(encoding.ids) }
  let (letterSeconds, _) = try best(1) { try tokenizer.encode(letters) }
  let (spaceSeconds, _) = try best(1) { try tokenizer.encode(spaces) }
  let rate = Double(encoding.ids.count) / seconds / 1e6
  let decodeRate = Double(encoding.ids.count) / decodeSeconds / 1e6
  print(
    "\(name): opens in \(decimal(openSeconds * 1000, 1)) ms; \(encoding.ids.count) tokens, \(decimal(rate, 2)) M tokens/s "
      + "(\(decimal(firstSeconds * 1000, 0)) ms opening and the first time), decodes \(decimal(decodeRate, 2)) M tokens/s; "
      + "1 MiB of one letter \(decimal(letterSeconds * 1000, 0)) ms, of spaces \(decimal(spaceSeconds * 1000, 0)) ms")
}

import NibbleCore
import NibbleFormats

/// A safetensors file: only the header's text, with all the bytes it asks for behind it, or (choice 1) the whole file.
func fuzzHeader(_ input: Input) throws {
  let path: String
  if input.choice & 1 == 1 {
    path = Folder.write("a.safetensors", input.bytes)
  } else {
    let count = input.bytes.count
    let file = (0..<8).map { UInt8(truncatingIfNeeded: count >> (8 * $0)) } + input.bytes
    path = Folder.write("a.safetensors", file, length: file.count + wantedBytes(input.bytes))
  }
  let file = try InputFile(path)
  let header = try SafetensorsHeader(of: file)
  var at = file.size - header.entries.reduce(0) { $0 + $1.range.count }
  for entry in header.entries {
    expect(entry.range.lowerBound == at, "tensors follow one another")
    at = entry.range.upperBound
  }
  expect(at == file.size, "tensors end where the file does")
  try plan(Checkpoint.open(path))
}

/// What every verb that writes asks of a checkpoint before it begins.
func plan(_ checkpoint: Checkpoint) throws {
  for (path, format) in [("o.nbl", OutputFormat.nbl), ("o", .bnb)] {
    let spec = try OutputSpec(path: Folder.path + "/" + path, format: format, default: .nbl)
    let job = try StreamJob.quantize(checkpoint, QuantizeOptions(), to: spec)
    expect(job.prediction().outputBytes >= 0, "a size is predicted")
  }
}

/// The greatest number that a header's offsets name, or 0.
private func wantedBytes(_ text: [UInt8]) -> Int {
  guard let members = (try? JSON.parse(text))?.members else { return 0 }
  let ends = members.compactMap { $0.value["data_offsets"]?.array?.compactMap(\.int).max() }
  return min(max(ends.max() ?? 0, 0), 1 << 40)
}

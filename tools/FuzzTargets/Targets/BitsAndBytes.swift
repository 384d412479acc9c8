import NibbleCore
import NibbleFormats

/// A whole safetensors file as bitsandbytes writes them: quantization states are texts among the tensors.
func fuzzBitsAndBytes(_ input: Input) throws {
  let checkpoint = try Checkpoint.open(Folder.write("a.safetensors", input.bytes))
  try plan(checkpoint)
  _ = try checkpoint.verify(threads: 1)
}

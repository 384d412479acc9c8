import NibbleCore
import NibbleFormats

/// The index of a model in shards, beside three real ones; or (choice 1) the model's config.json.
func fuzzIndex(_ input: Input) throws {
  _ = shards
  let isConfig = input.choice & 1 == 1
  _ = Folder.write("model.safetensors.index.json", isConfig ? index : input.bytes)
  _ = Folder.write("config.json", isConfig ? input.bytes : Array("{}".utf8))
  let checkpoint = try Checkpoint.open(Folder.path)
  expect(checkpoint.tensors.count == 21, "\(checkpoint.tensors.count) tensors of 21")
  try plan(checkpoint)
}

private let index = fixture("models/llama-sharded/model.safetensors.index.json")

private let shards: Void = {
  for number in 1...3 {
    let name = "model-0000\(number)-of-00003.safetensors"
    _ = Folder.write(name, fixture("models/llama-sharded/" + name))
  }
}()

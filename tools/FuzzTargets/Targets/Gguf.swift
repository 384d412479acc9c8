import NibbleAdapters
import NibbleCore
@testable import NibbleFormats
import NibbleTokenizers

/// A GGUF file: as a checkpoint that is planned with, read whole, and whose tokenizer makes tokens; or (choice 1) as an adapter.
func fuzzGguf(_ input: Input) throws {
  let path = Folder.write("a.gguf", input.bytes)
  if input.choice & 1 == 1 {
    _ = GGUFAdapter.isOne(path)
    _ = try GGUFAdapter(path)
    return
  }
  let file = try GgufFile(path)
  var end = 0
  for tensor in file.tensors {
    expect(tensor.range.lowerBound >= end && tensor.range.upperBound <= file.file.size, "tensors follow one another, in the file")
    end = tensor.range.upperBound
  }
  let checkpoint = try Checkpoint.open(path)
  try plan(checkpoint)
  if checkpoint.tensors.allSatisfy({ $0.plainBytes <= 1 << 22 && $0.count <= 1 << 20 }) { _ = try checkpoint.verify(threads: 1) }
  let tokenizer = try Tokenizer(files: checkpoint.contents(ofSmallFiles: Tokenizer.fileNames), place: "there")
  for text in ["", "Hello, wörld! 123\n\n  don't  ", "日本語 <s></s>[CLS]"] { _ = try tokenizer.decode(try tokenizer.encode(text).ids) }
}

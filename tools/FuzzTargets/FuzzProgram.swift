import Glibc
import NibbleCore

// What the fuzzer's own main calls; built and run by tools/fuzz.

/// What can be fuzzed: a reader of something that others wrote, given any bytes; computations of any size.
private let targets: [String: @Sendable (Input) throws -> Void] = [
  "header": fuzzHeader, "json": fuzzJSON, "index": fuzzIndex, "block-file": fuzzBlockFile, "bitsandbytes": fuzzBitsAndBytes,
  "adapter-config": fuzzAdapterConfig, "tokenizer": fuzzTokenizer, "rows": fuzzRows, "yaml": fuzzYAML, "template": fuzzTemplate,
  "products": fuzzProducts, "passes": fuzzPasses, "layouts": fuzzLayouts, "gguf": fuzzGguf, "pictures": fuzzPictures,
]

/// The one that `FUZZ_TARGET` names.
private let chosen = getenv("FUZZ_TARGET").flatMap { targets[String(cString: $0)] }

@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
  guard let chosen else {
    print("FUZZ_TARGET is one of:\n" + targets.keys.sorted().joined(separator: "\n"))
    exit(2)
  }
  // A reader may accept, or refuse by an error of ours with a message; anything else is a finding.
  do {
    try chosen(Input(UnsafeRawBufferPointer(start: data, count: size)))
  } catch let error as NibbleError {
    expect(!error.message.isEmpty, "an error has a message")
  } catch is JSONError {
  } catch {
    expect(false, "an error is ours: \(error)")
  }
  return 0
}

import NibbleCore
@testable import NibbleFormats

/// A block file. Its length and its checksums are put right first, or no change would get past them (choice 1: they are not).
func fuzzBlockFile(_ input: Input) throws {
  let bytes = input.choice & 1 == 1 ? input.bytes : mended(input.bytes)
  let checkpoint = try Checkpoint.open(Folder.write("a.nbl", bytes))
  try plan(checkpoint)
  // Section by section: a wrong checksum is found after the bytes were decompressed.
  for section in checkpoint.tensors.flatMap(\.sections) + checkpoint.smallFiles.compactMap { try? $0.section } {
    let bytes = try? SectionReader(section, "a").readWhole(limit: 1 << 22)
    expect(bytes.map { $0.count == section.plainLength } ?? true, "a section is as long as it says")
  }
  guard checkpoint.tensors.allSatisfy({ $0.plainBytes <= 1 << 22 }) else { return }
  _ = try checkpoint.verify(threads: 1)
  expect(try checkpoint.hash(threads: 1) == checkpoint.claimedIdentity, "the identity is the one that was verified")
}

private func mended(_ bytes: [UInt8]) -> [UInt8] {
  guard bytes.count >= NblHeader.length else { return bytes }
  var bytes = bytes
  let written = bytes[40..<48].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
  let length = min(Int(truncatingIfNeeded: written & 0xFFFF_FFFF), bytes.count - NblHeader.length)
  let table = Array(bytes[NblHeader.length..<NblHeader.length + length])
  let header = NblHeader(fileLength: bytes.count, tableLength: length, tableChecksum: XXH3.digest64(of: table))
  bytes.replaceSubrange(0..<NblHeader.length, with: header.bytes)
  return bytes
}

import Glibc
import NibbleCore
import NibbleFormats
import NibbleQuant

extension Checkpoint {
  /// This checkpoint's 4-bit form, in a file beside `output` that has no name any more once this returns.
  ///
  /// An adapter that was trained on the 4-bit form corrects what packing did: it belongs on those values, not on the original's.
  ///
  /// - Throws: `.usage` for a base that is packed already, and all that packing throws
  public func packedForm(_ options: QuantizeOptions, beside output: String, threads: Int) throws -> Checkpoint {
    guard packed.isEmpty else {
      throw NibbleError.usage(
        "\(path: path) is packed already: adapters are merged onto its values as they are, without \(.trainedOn)")
    }
    let hidden = Self.packedFormPath(output)
    var spec = try OutputSpec(path: hidden, format: .nbl, habit: .nbl)
    spec.force = true
    var job = try StreamJob.quantize(self, options, to: spec)
    job.threads = threads
    _ = try job.run()
    defer { unlink(hidden) }
    return try Checkpoint.open(hidden)
  }
}

extension Checkpoint {
  private static func packedFormPath(_ output: String) -> String {
    let path = output.withoutTrailingSlashes
    let slash = path.lastIndex(of: "/").map { path.index(after: $0) } ?? path.startIndex
    return String(path[..<slash]) + "." + path[slash...] + ".nibble-trained-on.nbl"
  }

  /// Removes what a run that was killed left of a packed form beside `output`, unless another is making one.
  public static func clearPackedForm(beside output: String) {
    let hidden = packedFormPath(output)
    let slash = hidden.lastIndex(of: "/").map { hidden.index(after: $0) } ?? hidden.startIndex
    let partial = String(hidden[..<slash]) + "." + hidden[slash...] + ".nibble-partial"
    guard PathKind(partial) == .file || PathKind(hidden) == .file else { return }
    // Taking the name takes the lock, and letting it go removes what is there.
    guard let staged = try? StagedOutput(hidden, .file, force: true) else { return }
    staged.discard()
    unlink(hidden)
  }
}

extension QuantizeOptions {
  /// Reads `nf4`, `fp4`, with `:block=N`, `:no-double-quant` and an encoder behind, `icq` with all that belongs to it last.
  public init(trainedOn text: String) throws {
    self.init()
    var parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
    guard let choice = CodecChoice(parts.removeFirst()), case .codec(let kind) = choice, kind.hasBlocks else {
      throw NibbleError.usage("\(.trainedOn, quoted(text)) does not begin with nf4 or fp4")
    }
    codec = choice
    if let at = parts.firstIndex(where: { $0.hasPrefix("icq") }), let search = OffsetSearch(text: parts[at...].joined(separator: ":")) {
      offsets = search
      parts.removeSubrange(at...)
    }
    for part in parts {
      if part == "no-double-quant" {
        doubleQuant = false
      } else if let encoder = StreamJob.Encoder(rawValue: part) {
        self.encoder = encoder
      } else if part.hasPrefix("block="), let size = Int(part.dropFirst(6)), BlockCodec.blockSizes.contains(size) {
        blockSize = size
      } else {
        throw NibbleError.usage(
          "\(.trainedOn, quoted(text)): \(subject: part) is none of block=N, no-double-quant, mse, mse-signed and icq")
      }
    }
  }
}

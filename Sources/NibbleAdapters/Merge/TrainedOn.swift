import Glibc
import NibbleCore
import NibbleFormats
import NibbleQuant

extension Checkpoint {
  /// This checkpoint's packed form, in a file beside `output` that has no name any more once this returns.
  ///
  /// An adapter that was trained on the packed form corrects what packing did: it belongs on those values, not on the original's.
  ///
  /// - Throws: `.usage` for a base that is packed already, and all that packing throws
  public func packedForm(_ options: QuantizeOptions, beside output: String, threads: Int) throws -> Checkpoint {
    guard packed.isEmpty else {
      throw NibbleError.usage(
        "\(path: path) is packed already: adapters are merged onto its values as they are, without \(.trainedOn)")
    }
    let hidden = Self.packedFormPath(output)
    var spec = try OutputSpec(path: hidden, format: .nbl, default: .nbl)
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
  /// Reads a codec's name with options behind: `nf4:block=128:no-double-quant:mse`, `int4:group=32:symmetric`, `int8`; `icq` with all that
  /// belongs to it last.
  ///
  /// - Throws: `.usage` naming what is there instead
  public init(trainedOn text: String) throws {
    self.init()
    var parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
    guard let choice = CodecChoice(parts.removeFirst()), case .codec(let kind) = choice, !kind.isPlain else {
      throw NibbleError.usage(
        "\(.trainedOn, quoted(text)) does not begin with a codec: \(Codecs.packing.map(\.name).joined(separator: ", "))")
    }
    codec = choice
    if let at = parts.firstIndex(where: { $0.hasPrefix("icq") }), let search = OffsetSearch(text: parts[at...].joined(separator: ":")) {
      offsets = search
      parts.removeSubrange(at...)
    }
    for part in parts {
      guard take(part, kind) else {
        throw NibbleError.usage(
          "\(.trainedOn, quoted(text)): \(subject: part) is no option of \(kind.name)"
            + (kind.searchesScales ? "; it has \((kind.hasGroups ? Self.groupOptions : Self.blockOptions).joined(separator: ", "))" : ""))
      }
    }
  }

  private static let blockOptions = ["block=N", "no-double-quant", "mse", "mse-signed"]
  private static let groupOptions = ["group=N", "symmetric", "zeros=TYPE", "mse"]

  /// - Returns: false for what is no option of the codec
  private mutating func take(_ part: String, _ kind: CodecKind) -> Bool {
    let value = part.drop { $0 != "=" }.dropFirst()
    switch part.prefix(while: { $0 != "=" }) {
    case "block":
      guard kind.hasBlocks, !kind.hasTiles, let size = Int(value), BlockCodec.blockSizes.contains(size) else { return false }
      blockSize = size
    case "tile":
      guard kind.hasTiles, let size = TileBlocks.tile(String(value)) else { return false }
      tile = size
    case "group":
      guard kind.hasGroups, let size = Int4Groups.size(String(value)) else { return false }
      groupSize = size
    case "zeros":
      guard kind.hasGroups, let zeros = Int4Groups.Zero(rawValue: String(value)) else { return false }
      self.zeros = zeros
    case "symmetric" where kind.hasGroups && value.isEmpty: zeros = .none
    case "no-double-quant" where kind.hasBlocks && value.isEmpty: doubleQuant = false
    default:
      guard kind.searchesScales, let encoder = StreamJob.Encoder(rawValue: part) else { return false }
      self.encoder = encoder
    }
    return true
  }
}

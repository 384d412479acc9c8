import NibbleCore
import NibbleQuant

/// The codecs that tensors of an output can be given to choose from: those that have a place beside one another in it.
public struct PackingPalette: Sendable {
  private let options: QuantizeOptions
  private let format: OutputFormat

  /// What an output is packed with by default tells what else has a place there.
  public init(_ options: QuantizeOptions, in format: OutputFormat) { (self.options, self.format) = (options, format) }

  /// Packing codecs of tensors of a type, each with what a rule says of it: `nf4:block=64`.
  package func codecs(_ dtype: DType) -> [(rule: String, codec: any WeightCodec)] {
    func made(_ kind: CodecKind, block: Int? = nil, group: Int? = nil) -> any WeightCodec {
      options.codec(kind, blockSize: block, groupSize: group, dtype, in: format.container)
    }
    var all: [(rule: String, codec: any WeightCodec)] = []
    for size in [256, 128, 64, 32] { all.append(("nf4:block=\(size)", made(BlockCodec.Code.nf4.kind, block: size))) }
    for size in [0] + Int4Groups.sizes.reversed() { all.append(("int4:group=\(size == 0 ? "row" : "\(size)")", made(.int4, group: size))) }
    all.append(("int8", made(.int8)))
    let usual = [WeightEncoding(made(format.scheme == nil ? BlockCodec.Code.nf4.kind : .int4))]
    return all.filter { format.container.takes(WeightEncoding($0.codec), beside: usual) }
  }

  /// The names of these codecs, for people.
  public var names: [String] {
    codecs(.bf16).reduce(into: []) { names, one in
      if !names.contains(one.codec.kind.name) { names.append(one.codec.kind.name) }
    }
  }

  /// What tells the tensors that must all be packed or not with this one; nil where it stands alone.
  package func bond(_ tensor: String) -> String? { format.container.bond(tensor) }
}

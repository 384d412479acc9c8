import ArgumentParser
import NibbleCore
import NibbleFormats
import NibbleQuant

/// How weights are packed: shared by every verb that packs.
struct PackingOptions: ParsableArguments {
  @Option(help: "Weights that share a scale: 32, 64, … 4096.")
  var blockSize = 64

  @Option(help: ArgumentHelp("nf4-tiles: rows and columns of a tile, whose weights share a scale and an offset (default: 8x4).", valueName: "ROWSxCOLUMNS"))
  var tile: String?

  @Flag(inversion: .prefixedNo, help: "Quantize the scales to 8 bits too.")
  var doubleQuant = true

  @Option(
    help: "int4: weights along the inputs that share a scale: 32, 64, 128, 256, or row (default: 64; 128 for compressed-tensors and gptq)."
  )
  var groupSize: String?

  @Flag(help: "int4: no zero points; codes stand for -8 to 7 times the scale.")
  var symmetric = false

  @Option(help: "int4: type of the zero points: float16, float32, int (0 to 15), or offset, which is added to scale times code (default: float16; what --format has).")
  var zeros: Int4Groups.Zero = .half

  @Option(help: "Rounding of corner cases: nearest, or as bitsandbytes on cuda or cpu.")
  var bnbRules: EncodingRules = .nearest

  @Option(
    help: ArgumentHelp(
      "How scales are chosen: absmax; mse, the least squared error; mse-signed, the same with scales of either sign (default: absmax, or what a packed base was made with); icq adds an offset to each block of nf4. quantize can also choose the codes, by what they do to the model's outputs on a text: calibrated; gptq, as published (int4); auto, which is calibrated where the model runs here and has a text, and mse-signed elsewhere. GGUF files take calibrated, and imatrix, llama.cpp's search with the importance that inputs have on a text."
    ))
  var encoder: EncoderFlag?

  @OptionGroup var icq: ICQOptions

  func apply(to options: inout QuantizeOptions) throws {
    guard BlockCodec.blockSizes.contains(blockSize) else {
      throw NibbleError.usage("--block-size \(blockSize) is not one of \(BlockCodec.blockSizes)")
    }
    options.blockSize = blockSize
    options.doubleQuant = doubleQuant
    if let groupSize {
      guard let group = Int4Groups.size(groupSize) else {
        throw NibbleError.usage("--group-size \(groupSize) is not one of \(Int4Groups.sizes) or row")
      }
      options.groupSize = group
    }
    if let tile {
      guard let size = TileBlocks.tile(tile) else {
        throw NibbleError.usage("--tile \(quoted(tile)) is not ROWSxCOLUMNS of \(BlockCodec.blockSizes.prefix(4).map(String.init).joined(separator: ", ")), … weights")
      }
      options.tile = size
    }
    options.zeros = symmetric ? .none : zeros
    options.bnbRules = bnbRules
    options.encoder = encoder?.search
    options.offsets = try icq.search(isAsked: encoder == .icq)
  }

  /// Throws for options of codecs that nothing is packed with.
  func checkUse(of choices: [CodecChoice]) throws {
    let kinds = choices.compactMap { if case .codec(let kind) = $0 { kind } else { nil } }
    let groups = Arguments.given(["--group-size", "--symmetric", "--zeros"])
    if let flag = groups.first, !kinds.contains(where: \.hasGroups) { throw NibbleError.usage("\(flag) is for int4, which nothing is packed with") }
    if groups.contains("--symmetric"), groups.contains("--zeros") { throw NibbleError.usage("--symmetric stores no zero points; leave out --zeros") }
    if tile != nil, !kinds.contains(where: \.hasTiles) { throw NibbleError.usage("--tile is for nf4-tiles, which nothing is packed with") }
    if !kinds.isEmpty, kinds.allSatisfy(\.hasTiles), !Arguments.given(["--block-size"]).isEmpty {
      throw NibbleError.usage("--block-size is for nf4 and fp4, which nothing is packed with; nf4-tiles has --tile")
    }
    let blocks = Arguments.given(["--block-size", "--double-quant", "--no-double-quant"])
    if let flag = blocks.first, !kinds.isEmpty, kinds.allSatisfy(\.hasGroups) {
      throw NibbleError.usage("\(flag) is for nf4 and fp4, which nothing is packed with; int4 has --group-size")
    }
  }

  /// What other engines load best, encoded as well as can be unless something else is asked for.
  func apply(_ scheme: PackingScheme, to options: inout QuantizeOptions) {
    if !symmetric, Arguments.given(["--zeros"]).isEmpty { options.zeros = scheme.zeros }
    if groupSize == nil { options.groupSize = scheme.groupSize }
    options.defaultEncoder = .mse
  }
}

extension Int4Groups.Zero: ExpressibleByArgument {
  public init?(argument: String) {
    let name = argument == "float" ? Self.half.rawValue : argument
    guard let zero = Self(rawValue: name), zero != .none else { return nil }
    self = zero
  }

  public static var allValueStrings: [String] { allCases.filter { $0 != .none }.map(\.rawValue) }
}

extension CompressionChoice {
  /// Reads `none`, `zstd` or `zstd:LEVEL`.
  init(flag: String, _ format: OutputFormat) throws {
    let parts = flag.split(separator: ":", omittingEmptySubsequences: false)
    if flag == "none" {
      self = .none
    } else if parts.first == "zstd", parts.count <= 2,
      let level = parts.count == 2 ? Int(parts[1]) : 3, Zstd.levels.contains(level)
    {
      guard format.compresses else { throw NibbleError.usage("--compress is for block files (--format nbl)") }
      self = .zstd(level)
    } else {
      throw NibbleError.usage("--compress \(quoted(flag)) is not none, zstd or zstd:LEVEL with LEVEL from 1 to 22")
    }
  }
}

extension EncodingRules: ExpressibleByArgument {}

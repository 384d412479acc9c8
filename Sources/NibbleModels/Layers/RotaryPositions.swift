import Glibc
import NibbleCompute
import NibbleCore

/// Rotary position embeddings: pairs of numbers of a head turned by position · frequency i.
///
/// Su et al., arXiv:2104.09864, in the half-split order of Hugging Face's files: pair i is (i, i + count), or (2i, 2i + 1). Numbers behind
/// the pairs are not turned.
package struct RotaryPositions: Sendable, Hashable {
  /// Turns per position of each pair.
  package let frequencies: [Float]
  /// What cosines and sines are multiplied with (YaRN, LongRoPE).
  package private(set) var attentionFactor: Float
  /// What replaces the frequencies, for the whole sequence, in sequences longer than `trained` tokens (LongRoPE).
  package struct Long: Sendable, Hashable {
    package var frequencies: [Float]
    package var trained: Int
  }
  package let long: Long?
  /// Whether pairs are neighbours.
  package let isPaired: Bool

  /// What a family takes where its configuration is silent, and how it spells keys.
  struct Usual {
    var base = 10_000.0
    var baseKey = "rope_theta"
    /// The part of each head that is turned.
    var part = 1.0
    var partKey = "partial_rotary_factor"
    /// Whether that may be less than the whole.
    var hasParts = false
    var isPaired = false
    /// Kinds of scaling it has, by the names for them; nil for all.
    var kinds: [String: String]?
    /// The context before it was extended, whatever the scaling says.
    var trained: Int?
  }

  /// Scalings of positions in three parts, and the name that older files have for the first.
  static let kindsInThreeParts = Dictionary(
    uniqueKeysWithValues: [("mrope", "default")] + ["default", "linear", "dynamic", "llama3", "yarn", "longrope"].map { ($0, $0) })

  /// The frequencies a configuration asks for.
  ///
  /// - Parameters:
  ///   - size: numbers in a head
  ///   - context: `max_position_embeddings`
  ///   - layers: the kind of layers they are for, in a family that has others for each
  init(_ config: ConfigReader, size: Int, context: Int, usual: Usual, of layers: String? = nil) throws {
    let scaling = try layers.map { try Self.parameters(config, of: $0) } ?? Self.parameters(config)
    func either(_ key: String, _ outer: String, default fallback: Double) throws -> Double {
      if let scaling, scaling[key] != nil { return try scaling.double(key, above: 0) }
      return try config.double(outer, above: 0, default: fallback)
    }
    let base = try either("rope_theta", usual.baseKey, default: usual.base)
    let part = try either("partial_rotary_factor", usual.partKey, default: usual.part)
    guard part == 1 || usual.hasParts else { throw config.fail("\(key: usual.partKey) = \(part) is not implemented") }
    let turned = part >= 1 ? size : Int(Double(size) * part), half = (turned + 1) / 2
    guard part <= 1, 2 * half <= size else {
      throw config.fail(
        part == 1 ? "heads of \(size) numbers cannot be rotated: the size is odd"
          : "\(key: usual.partKey) = \(part) of heads of \(size) numbers is no number of pairs")
    }
    let plain = (0..<half).map { Float(1 / pow(base, Double(2 * $0) / Double(turned))) }
    let named = try scaling?.string("rope_type") ?? scaling?.string("type") ?? "default"
    let kind = usual.kinds.map { $0[named] } ?? named
    /// Where the context before the extension is looked for first.
    let outer = layers == nil ? config : scaling
    isPaired = usual.isPaired
    switch (kind, scaling) {
    case ("default", _), (_, nil):
      (frequencies, attentionFactor, long) = (plain, 1, nil)
    case ("linear", let scaling?):
      let factor = Float(try scaling.double("factor", above: 0))
      (frequencies, attentionFactor, long) = (plain.map { $0 / factor }, 1, nil)
    case ("dynamic", _):
      // Differs from the default only beyond the trained context, where nibble does not go.
      (frequencies, attentionFactor, long) = (plain, 1, nil)
    case ("llama3", let scaling?):
      let trained = try Self.trained(outer ?? config, scaling, usual, context: context)
      (frequencies, attentionFactor, long) = (try Self.llama3(plain, scaling, trained: trained), 1, nil)
    case ("yarn", let scaling?):
      guard turned % 2 == 0 else {
        throw config.fail("\(key: usual.partKey) = \(part) of heads of \(size) numbers is an odd number, which yarn is not defined for")
      }
      let trained = try Self.trained(outer ?? config, scaling, usual, context: context)
      // transformers looks for `truncate` beside the kinds of layers, where it is not.
      let truncates = try layers != nil || scaling.bool("truncate", default: true)
      (frequencies, attentionFactor) = try Self.yarn(
        plain, scaling, base: base, size: turned, context: context, trained: trained, truncates: truncates)
      long = nil
    case ("longrope", let scaling?):
      let trained = try Self.trained(outer ?? config, scaling, usual, context: context)
      func stretched(_ key: String) throws -> [Float] {
        let factors = scaling[key]?.array?.compactMap(\.double) ?? []
        guard factors.count == half, factors.allSatisfy({ $0 > 0 && $0.isFinite }) else {
          throw scaling.fail("\(key: key) is no list of \(half) numbers above 0, one a pair of a head")
        }
        return factors.indices.map { 1 / (Float(factors[$0]) * Float(pow(base, Double(2 * $0) / Double(turned)))) }
      }
      let factor = try scaling.double("factor", above: 0, default: Double(context) / Double(trained))
      let usualFactor = factor <= 1 ? 1 : (1 + log(factor) / log(Double(trained))).squareRoot()
      guard usualFactor.isFinite else { throw scaling.fail("a trained context of \(trained) has no attention factor") }
      attentionFactor = Float(try scaling.double("attention_factor", above: 0, default: usualFactor))
      (frequencies, long) = (try stretched("short_factor"), Long(frequencies: try stretched("long_factor"), trained: trained))
    case (_, _): throw config.fail("\(key: "rope_type") = \(quoted(named)) is not implemented")
    }
  }

  /// The same with cosines and sines as they are.
  var withoutFactor: RotaryPositions {
    var own = self
    own.attentionFactor = 1
    return own
  }

  /// The same for a family that takes and spells what Llama does.
  package init(_ config: ConfigReader, size: Int, context: Int) throws {
    try self.init(config, size: size, context: context, usual: Usual())
  }

  /// What scales positions. transformers 5 puts everything into rope_parameters; before, rope_theta and rope_scaling were keys of their
  /// own. Where both are, it takes rope_scaling, and rope_theta from there or from beside it.
  static func parameters(_ config: ConfigReader) throws -> ConfigReader? {
    let scaling = try scaling(config) ?? config.object("rope_parameters")
    if let part = scaling?.json.members?.first(where: { $0.value.members != nil }) {
      throw config.fail("rotary positions of their own for \(quoted(part.key)) are not implemented")
    }
    return scaling
  }

  /// rope_scaling, if it says anything.
  private static func scaling(_ config: ConfigReader) throws -> ConfigReader? {
    try config.object("rope_scaling").flatMap { $0.json.members?.isEmpty == false ? $0 : nil }
  }

  /// The same for one kind of layers: an entry of rope_parameters, and rope_scaling for those that see everything.
  private static func parameters(_ config: ConfigReader, of layers: String) throws -> ConfigReader? {
    let all = try config.object("rope_parameters")
    if let stray = all?.json.members?.first(where: { $0.value.members == nil && $0.value != .null }) {
      throw config.fail("\(key: "rope_parameters"): \(quoted(stray.key)) for all kinds of layers is not implemented")
    }
    let own = try all?.object(layers)
    guard layers == LayerKind.full, let old = try scaling(config) else { return own }
    return ConfigReader((old.json.members ?? []).reduce(own?.json ?? .object([])) { $0.setting($1.key, to: $1.value) }, place: old.place)
  }

  /// The context before it was extended: the configuration's own key comes before that of the scaling.
  private static func trained(_ config: ConfigReader, _ scaling: ConfigReader, _ usual: Usual, context: Int) throws -> Int {
    let key = "original_max_position_embeddings"
    if config[key] == nil, let trained = usual.trained { return trained }
    return try (config[key] == nil ? scaling : config).int(key, Limits.context, default: context)
  }

  /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth passage between.
  private static func llama3(_ plain: [Float], _ config: ConfigReader, trained: Int) throws -> [Float] {
    // In float32 throughout, as transformers has it: the passage multiplies differences.
    let factor = Float(try config.double("factor", above: 0))
    let low = Float(try config.double("low_freq_factor", above: 0))
    let high = Float(try config.double("high_freq_factor", above: 0))
    let trained = Float(trained)
    guard high >= low else { throw config.fail("\(key: "high_freq_factor") is below low_freq_factor") }
    return plain.map { frequency in
      let wavelength = Float(2 * Double.pi) / frequency
      if wavelength < trained / high { return frequency }
      if wavelength > trained / low { return frequency / factor }
      // Llama 4's two are the same: nothing lies between.
      guard high > low else { return frequency }
      let smooth = (trained / wavelength - low) / (high - low)
      return (1 - smooth) * frequency / factor + smooth * frequency
    }
  }

  /// YaRN, arXiv:2309.00071: a ramp between interpolated and plain frequencies, and a temperature.
  private static func yarn(
    _ plain: [Float], _ config: ConfigReader, base: Double, size: Int, context: Int, trained: Int, truncates: Bool
  ) throws -> ([Float], Float) {
    let trained = Double(trained)
    // transformers takes null for the ratio of the contexts, and does not do without the key.
    guard config.says("factor") else { throw config.fail("\(key: "factor") is missing, which yarn needs") }
    let factor = try config.double("factor", above: 0, default: Double(context) / trained)
    let fast = try config.double("beta_fast", above: 0, default: 32)
    let slow = try config.double("beta_slow", above: 0, default: 1)
    func dimension(_ rotations: Double) -> Double {
      Double(size) * log(trained / (rotations * 2 * Double.pi)) / (2 * log(base))
    }
    var low = dimension(fast)
    var high = dimension(slow)
    if truncates {
      low = low.rounded(.down)
      high = high.rounded(.up)
    }
    low = max(low, 0)
    high = min(high, Double(size - 1))
    if low == high { high += 0.001 }
    func temperature(_ scale: Double) -> Double { factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1 }
    let scale = try config.double("mscale", above: -.infinity, default: 0)
    let scaleOfAll = try config.double("mscale_all_dim", above: -.infinity, default: 0)
    // One without the other counts for nothing.
    let usual = scale == 0 || scaleOfAll == 0 ? temperature(1) : temperature(scale) / temperature(scaleOfAll)
    let frequencies = plain.enumerated().map { index, frequency in
      let ramp = min(max((Double(index) - low) / (high - low), 0), 1)
      return Float(Double(frequency) / factor * ramp + Double(frequency) * (1 - ramp))
    }
    return (frequencies, Float(try config.double("attention_factor", above: 0, default: usual)))
  }
}

/// Cosines and sines by position, made as far as sequences have come.
package final class RotaryTable: @unchecked Sendable {
  private let positions: RotaryPositions
  package private(set) var cosines: FloatStore
  package private(set) var sines: FloatStore
  /// Positions there are rows for; rows of long sequences follow those of others.
  private var count = 0
  /// Pairs of a head that are turned.
  var half: Int { positions.frequencies.count }
  var isPaired: Bool { positions.isPaired }

  package init(_ positions: RotaryPositions) {
    self.positions = positions
    cosines = FloatStore(count: 0)
    sines = FloatStore(count: 0)
  }

  /// The row of position 0 of sequences within the trained length, or of longer ones.
  func first(isLong: Bool) -> Int { isLong && positions.long != nil ? count : 0 }

  /// Makes the table long enough for positions below `wanted`.
  package func reach(_ wanted: Int) {
    guard wanted > count else { return }
    let length = max(wanted, 2 * count, 256)
    let kinds = [positions.frequencies, positions.long?.frequencies].compactMap { $0 }
    let newCosines = FloatStore(count: kinds.count * length * half)
    let newSines = FloatStore(count: kinds.count * length * half)
    for (kind, frequencies) in kinds.enumerated() {
      for position in 0..<length {
        for (index, frequency) in frequencies.enumerated() {
          let angle = Float(position) * frequency, place = (kind * length + position) * half + index
          newCosines.values[place] = cosf(angle) * positions.attentionFactor
          newSines.values[place] = sinf(angle) * positions.attentionFactor
        }
      }
    }
    cosines = newCosines
    sines = newSines
    count = length
  }
}

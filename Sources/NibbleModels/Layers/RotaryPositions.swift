import Glibc
import NibbleCompute
import NibbleCore

/// Rotary position embeddings: pairs (i, i + size/2) of a head turned by position · frequency i.
///
/// Su et al., arXiv:2104.09864, in the half-split order of Hugging Face's files.
package struct RotaryPositions: Sendable {
  /// Turns per position of each pair.
  package let frequencies: [Float]
  /// What cosines and sines are multiplied with (YaRN).
  package let attentionFactor: Float

  /// The frequencies a configuration asks for.
  ///
  /// - Parameters:
  ///   - size: numbers in a head
  ///   - context: `max_position_embeddings`
  package init(_ config: ConfigReader, size: Int, context: Int) throws {
    // transformers 5 puts everything into rope_parameters; before, rope_theta and rope_scaling were keys of their own. Where both
    // are, it takes rope_scaling, and rope_theta from there or from beside it.
    let old = try config.object("rope_scaling").flatMap { $0.json.members?.isEmpty == false ? $0 : nil }
    let scaling = try old ?? config.object("rope_parameters")
    if let part = scaling?.json.members?.first(where: { $0.value.members != nil }) {
      throw config.fail("rotary positions of their own for \(quoted(part.key)) are not implemented")
    }
    func either(_ key: String, default fallback: Double) throws -> Double {
      try (scaling?[key] == nil ? config : scaling ?? config).double(key, above: 0, default: fallback)
    }
    let base = try either("rope_theta", default: 10_000)
    let partial = try either("partial_rotary_factor", default: 1)
    guard partial == 1 else { throw config.fail("\(key: "partial_rotary_factor") = \(partial) is not implemented") }
    guard size % 2 == 0 else { throw config.fail("heads of \(size) numbers cannot be rotated: the size is odd") }
    let plain = (0..<size / 2).map { Float(1 / pow(base, Double(2 * $0) / Double(size))) }
    let kind = try scaling?.string("rope_type") ?? scaling?.string("type") ?? "default"
    switch (kind, scaling) {
    case ("default", _), (_, nil):
      frequencies = plain
      attentionFactor = 1
    case ("linear", let scaling?):
      let factor = Float(try scaling.double("factor", above: 0))
      frequencies = plain.map { $0 / factor }
      attentionFactor = 1
    case ("dynamic", _):
      // Differs from the default only beyond the trained context, where nibble does not go.
      frequencies = plain
      attentionFactor = 1
    case ("llama3", let scaling?):
      frequencies = try Self.llama3(plain, scaling, trained: Self.trained(config, scaling, context: context))
      attentionFactor = 1
    case ("yarn", let scaling?):
      let trained = try Self.trained(config, scaling, context: context)
      (frequencies, attentionFactor) = try Self.yarn(plain, scaling, base: base, size: size, context: context, trained: trained)
    case (let kind, _): throw config.fail("\(key: "rope_type") = \(quoted(kind)) is not implemented")
    }
  }

  /// The context before it was extended: the configuration's own key comes before that of the scaling.
  private static func trained(_ config: ConfigReader, _ scaling: ConfigReader, context: Int) throws -> Int {
    let key = "original_max_position_embeddings"
    return try (config[key] == nil ? scaling : config).int(key, Limits.context, default: context)
  }

  /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth passage between.
  private static func llama3(_ plain: [Float], _ config: ConfigReader, trained: Int) throws -> [Float] {
    // In float32 throughout, as transformers has it: the passage multiplies differences.
    let factor = Float(try config.double("factor", above: 0))
    let low = Float(try config.double("low_freq_factor", above: 0))
    let high = Float(try config.double("high_freq_factor", above: 0))
    let trained = Float(trained)
    guard high > low else { throw config.fail("\(key: "high_freq_factor") is not above low_freq_factor") }
    return plain.map { frequency in
      let wavelength = Float(2 * Double.pi) / frequency
      if wavelength < trained / high { return frequency }
      if wavelength > trained / low { return frequency / factor }
      let smooth = (trained / wavelength - low) / (high - low)
      return (1 - smooth) * frequency / factor + smooth * frequency
    }
  }

  /// YaRN, arXiv:2309.00071: a ramp between interpolated and plain frequencies, and a temperature.
  private static func yarn(
    _ plain: [Float], _ config: ConfigReader, base: Double, size: Int, context: Int, trained: Int
  ) throws -> ([Float], Float) {
    let trained = Double(trained)
    let factor = try config.double("factor", above: 0, default: Double(context) / trained)
    let fast = try config.double("beta_fast", above: 0, default: 32)
    let slow = try config.double("beta_slow", above: 0, default: 1)
    let truncates = try config.bool("truncate", default: true)
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
  private var count = 0
  private var half: Int { positions.frequencies.count }

  package init(_ positions: RotaryPositions) {
    self.positions = positions
    cosines = FloatStore(count: 0)
    sines = FloatStore(count: 0)
  }

  /// Makes the table long enough for positions below `wanted`.
  package func reach(_ wanted: Int) {
    guard wanted > count else { return }
    let length = max(wanted, 2 * count, 256)
    let newCosines = FloatStore(count: length * half)
    let newSines = FloatStore(count: length * half)
    for position in 0..<length {
      for (index, frequency) in positions.frequencies.enumerated() {
        let angle = Float(position) * frequency
        newCosines.values[position * half + index] = cosf(angle) * positions.attentionFactor
        newSines.values[position * half + index] = sinf(angle) * positions.attentionFactor
      }
    }
    cosines = newCosines
    sines = newSines
    count = length
  }
}

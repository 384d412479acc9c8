import NibbleCompute
import NibbleCore

/// Butterfly OFT (BOFT), arXiv:2311.06243: y = s∘((x · R) · Wᵀ) + b, R a product of factors, each of them rotations of blocks of inputs that
/// lie apart.
package struct BOFT: AdapterMethod {
  private static let blocks = "boft_R", lengths = "boft_s"
  private static let size = "boft_block_size", count = "boft_block_num", factors = "boft_n_butterfly_factor"

  package static let name = "BOFT"
  package static let kind = "BOFT"
  package static let onlyBias = "boft_only"
  package static let keys: Set<String> = ["init_weights", "boft_dropout"]
  package static let settings = [
    MethodSetting(size, standard: 4, 0...65536), MethodSetting(count, standard: 0, 0...1_048_576),
    MethodSetting(factors, standard: 1, 1...16),
  ]
  package static let scalesOutputs = true, changesInputs = true
  package static let parts = [
    MethodPart(blocks, suffixes: [".boft_R"]) { module in
      let size = Int(module.settings[size] ?? 0)
      return [Int(module.settings[factors] ?? 1), (module.inputs ?? 0) / max(size, 1), size, size]
    },
    MethodPart(lengths, suffixes: [".boft_s"]) { [$0.outputs ?? 0, 1] },
  ]

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let r = parts[blocks], let s = parts[lengths], r.count == 4, !isEmbedding, r[2] == r[3], !r.contains(0), r[2] <= 1 << 16,
      let outputs = s.first
    else { return nil }
    let (inputs, overflow) = r[1].multipliedReportingOverflow(by: r[2])
    guard !overflow else { return nil }
    return ModuleShape(
      input: [inputs], outputs: outputs,
      settings: [factors: Double(r[0]), size: Double(r[2]), count: Double(r[1])])
  }

  /// Of a new module the number of blocks may stand for their size, as in PEFT.
  package static func settled(_ settings: MethodSettings, inputs: Int, outputs: Int) -> MethodSettings {
    guard let count = settings[count], count > 0 else { return settings }
    var own = settings
    own[size] = inputs % Int(count) == 0 ? Double(inputs / Int(count)) : 0
    return own
  }

  package static func contradiction(_ settings: MethodSettings) -> MessageText? {
    settings[count] ?? 0 > 0 && settings[size] ?? 0 > 0 ? "one of \(key: count) and \(key: size) has to be 0, as in PEFT" : nil
  }

  package static func refusal(of module: ModuleShape) -> MessageText? {
    guard let size = module.settings[size].map({ Int($0) }), let inputs = module.inputs else { return nil }
    let factors = Int(module.settings[factors] ?? 1)
    guard size < 1 || inputs % size != 0 else {
      guard factors > 1 else { return nil }
      return factors > 16 || size % 2 != 0 || inputs / size % (1 << (factors - 1)) != 0
        ? "\(factors) butterfly factors need blocks of an even size, and a number of them that \(1 << (min(factors, 17) - 1)) divides; it has \(inputs / size) of \(size)"
        : nil
    }
    return "BOFT needs a block size that divides its \(inputs) inputs; \(size) does not"
  }

  package static func start(_ layer: NewModule) -> [String: [Float]] {
    let size = Int(layer.settings[size] ?? 0), factors = Int(layer.settings[factors] ?? 1)
    return [
      blocks: [Float](repeating: 0, count: factors * layer.inputs * size), lengths: [Float](repeating: 1, count: layer.outputs),
    ]
  }

  private let butterfly: Butterfly
  private let scales: FloatStore
  private let rotation: BlockRotation

  package init?(_ numbers: MethodNumbers) {
    guard let own = numbers.values[Self.blocks], let scales = numbers.values[Self.lengths],
      let size = numbers.settings[Self.size].map({ Int($0) }), let factors = numbers.settings[Self.factors].map({ Int($0) }),
      size > 0, (1...16).contains(factors), own.count % (factors * size) == 0
    else { return nil }
    let butterfly = Butterfly(numbers: own, factors: factors, size: size)
    guard butterfly.inputs % butterfly.whole == 0 else { return nil }
    (self.butterfly, self.scales) = (butterfly, scales)
    rotation = BlockRotation(inputs: butterfly.inputs, size: butterfly.whole, count: butterfly.inputs / butterfly.whole) { dr, gradients in
      if let gradient = gradients[Self.blocks] { butterfly.back(dr, to: gradient) }
    }
    fold()
  }

  package var pair: LowRankPair? { nil }
  package var scale: FloatStore? { scales }
  package var input: (any InputChange)? { rotation }
  package static let isMadeAnew = true

  package func fold() {
    for block in 0..<butterfly.inputs / butterfly.whole {
      rotation.set(block, to: butterfly.product(butterfly.rotations(block)))
    }
  }

  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {
    if let own = gradients[Self.lengths] { for (o, sum) in outputs.productSums().enumerated() { own.start[o] += Float(sum) } }
    outputs.scale()
  }
}

/// Factors that are multiplied to rotations of larger blocks: factor i turns blocks whose halves lie 2ⁱ halves apart.
private struct Butterfly: Sendable {
  /// [factors, blocks, size, size], skew-symmetric but for what the mean with the negative transpose takes away.
  let numbers: FloatStore
  let factors: Int
  let size: Int

  var inputs: Int { numbers.count / (factors * size) }
  /// Inputs that all factors together mix.
  var whole: Int { size << (factors - 1) }
  private static let map = CayleyMap(terms: nil)

  /// Where factor `factor` takes each of the inputs of one whole block from.
  private func order(_ factor: Int) -> [Int] {
    guard factors > 1 else { return Array(0..<whole) }
    let half = size / 2, length = size << factor
    let halves = Array(stride(from: 0, to: 2 << factor, by: 2)) + Array(stride(from: 1, to: 2 << factor, by: 2))
    let inner = halves.flatMap { place in (0..<half).map { place * half + $0 } }
    return stride(from: 0, to: whole, by: length).flatMap { start in inner.map { start + $0 } }
  }

  private func skew(_ factor: Int, _ block: Int) -> SquareMatrix {
    let own = SquareMatrix(size, numbers.start + (factor * (inputs / size) + block) * size * size)
    return 0.5 * (own - own.transposed)
  }

  /// The factors of one whole block.
  func rotations(_ block: Int) -> [SquareMatrix] {
    (0..<factors).map { factor in
      let order = order(factor)
      var rotation = SquareMatrix(whole, diagonal: 0)
      for part in 0..<whole / size {
        let own = Self.map.rotation(skew(factor, block * (whole / size) + part))
        for i in 0..<whole where order[i] / size == part {
          for j in 0..<whole where order[j] / size == part { rotation[i, j] = own[order[i] % size, order[j] % size] }
        }
      }
      return rotation
    }
  }

  /// The last factor first.
  func product(_ rotations: [SquareMatrix]) -> SquareMatrix {
    rotations.dropFirst().reduce(rotations[0]) { $1 * $0 }
  }

  /// - Parameter dr: the gradient of the products, block by block
  func back(_ dr: FloatStore, to gradient: FloatStore) {
    for block in 0..<inputs / whole {
      let rotations = rotations(block)
      let all = SquareMatrix(whole, dr.start + block * whole * whole)
      for factor in 0..<factors {
        let after = factor + 1 < factors ? product(Array(rotations[(factor + 1)...])) : SquareMatrix(whole, diagonal: 1)
        let before = factor > 0 ? product(Array(rotations[..<factor])) : SquareMatrix(whole, diagonal: 1)
        let own = after.transposed * all * before.transposed
        let order = order(factor)
        for part in 0..<whole / size {
          var turned = SquareMatrix(size, diagonal: 0)
          for i in 0..<whole where order[i] / size == part {
            for j in 0..<whole where order[j] / size == part { turned[order[i] % size, order[j] % size] = own[i, j] }
          }
          let place = block * (whole / size) + part
          let dq = Self.map.back(skew(factor, place), turned)
          let start = (factor * (inputs / size) + place) * size * size
          for i in 0..<size { for j in 0..<size { gradient.start[start + i * size + j] += Float(0.5 * (dq[i, j] - dq[j, i])) } }
        }
      }
    }
  }
}

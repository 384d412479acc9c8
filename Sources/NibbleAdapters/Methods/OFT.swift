import Glibc
import NibbleCompute
import NibbleCore

/// Orthogonal finetuning (OFT), arXiv:2306.07280: y = (x · R) · Wᵀ, R blocks of rotations along the diagonal, each Cayley's map of a
/// trained skew-symmetric matrix. What is stored is the part above its diagonal, row by row.
package struct OFT: AdapterMethod {
  private static let skew = "oft_R"
  private static let count = "r", size = "oft_block_size", isShared = "block_share"
  private static let usesSeries = "use_cayley_neumann", terms = "num_cayley_neumann_terms"
  private static let isBounded = "coft", bound = "eps"

  package static let name = "OFT"
  package static let kind = "OFT"
  package static let onlyBias = "oft_only"
  package static let keys: Set<String> = ["init_weights", "module_dropout"]
  package static let settings = [
    MethodSetting(count, standard: 0, 0...1_048_576), MethodSetting(size, standard: 32, 0...65536), MethodSetting(isShared, flag: false),
    MethodSetting(usesSeries, flag: true), MethodSetting(terms, standard: 5, 1...64), MethodSetting(isBounded, flag: false),
    MethodSetting(bound, standard: 6e-5, real: 0...1e6),
  ]
  package static let changesInputs = true
  package static let parts = [
    MethodPart(skew, suffixes: [".oft_R.weight"]) { module in
      let size = Int(module.settings[size] ?? 0)
      return [module.settings[isShared] == 1 ? 1 : (module.inputs ?? 0) / max(size, 1), size * (size - 1) / 2]
    }
  ]

  package static func refusal(_ config: JSON) -> MessageText? {
    config[size] == nil && config[count] != nil
      ? "\(key: size) is missing: the file is from PEFT before 0.14, whose OFT was another" : nil
  }

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let shape = parts[skew], shape.count == 2, !isEmbedding, shape[0] > 0, shape[1] >= 0 else { return nil }
    // size · (size − 1) / 2 numbers.
    let size = Int((1 + Double(1 + 8 * shape[1]).squareRoot()) / 2)
    guard size * (size - 1) / 2 == shape[1], size <= 1 << 16 else { return nil }
    var own = settings
    own[Self.size] = Double(size)
    let isShared = settings[isShared] == 1
    guard !isShared || shape[0] == 1 else { return nil }
    let (inputs, overflow) = shape[0].multipliedReportingOverflow(by: size)
    guard !overflow else { return nil }
    return ModuleShape(input: isShared ? nil : [inputs], settings: own)
  }

  /// Of a new module `r` may stand for the block size, as in PEFT.
  package static func settled(_ settings: MethodSettings, inputs: Int, outputs: Int) -> MethodSettings {
    guard let count = settings[count], count > 0 else { return settings }
    var own = settings
    own[size] = inputs % Int(count) == 0 ? Double(inputs / Int(count)) : 0
    return own
  }

  package static func refusal(of module: ModuleShape) -> MessageText? {
    guard let size = module.settings[size].map({ Int($0) }), let inputs = module.inputs else { return nil }
    guard size < 1 || inputs % size != 0 else { return nil }
    return "OFT needs a block size that divides its \(inputs) inputs; \(size) does not"
  }

  package static func untrained(_ settings: MethodSettings) -> MessageText? {
    settings[isBounded] == 1 ? "\(key: isBounded): constrained OFT is not trained" : nil
  }

  package static func contradiction(_ settings: MethodSettings) -> MessageText? {
    settings[count] ?? 0 > 0 && settings[size] ?? 0 > 0 ? "one of \(key: count) and \(key: size) has to be 0, as in PEFT" : nil
  }

  package static func start(_ layer: NewModule) -> [String: [Float]] {
    let size = Int(layer.settings[size] ?? 0), isShared = layer.settings[isShared] == 1
    return [skew: [Float](repeating: 0, count: (isShared ? 1 : layer.inputs / max(size, 1)) * size * (size - 1) / 2)]
  }

  private let own: FloatStore
  private let map: CayleyMap
  private let size: Int
  private let count: Int
  /// The greatest length of a block's matrix.
  private let limit: Double?
  private let rotation: BlockRotation

  package init?(_ numbers: MethodNumbers) {
    guard let own = numbers.values[Self.skew], let size = numbers.settings[Self.size].map({ Int($0) }), size > 0,
      let inputs = numbers.inputs, inputs % size == 0
    else { return nil }
    let each = size * (size - 1) / 2, isShared = numbers.settings[Self.isShared] == 1
    let count = isShared ? 1 : inputs / size
    guard own.count == count * each else { return nil }
    let map = CayleyMap(terms: numbers.settings[Self.usesSeries] == 0 ? nil : Int(numbers.settings[Self.terms] ?? 5))
    (self.own, self.map, self.size, self.count) = (own, map, size, count)
    limit = numbers.settings[Self.isBounded] == 1 ? (numbers.settings[Self.bound] ?? 0) / Double(count).squareRoot() : nil
    rotation = BlockRotation(inputs: inputs, size: size, count: count) { dr, gradients in
      guard let gradient = gradients[Self.skew] else { return }
      for block in 0..<count {
        let dq = map.back(Self.skew(own.start + block * each, size), SquareMatrix(size, dr.start + block * size * size))
        var place = block * each
        for i in 0..<size {
          for j in i + 1..<max(size, i + 1) {
            gradient.start[place] += Float(dq[i, j] - dq[j, i])
            place += 1
          }
        }
      }
    }
    fold()
  }

  private static func skew(_ numbers: UnsafePointer<Float>, _ size: Int) -> SquareMatrix {
    var q = SquareMatrix(size, diagonal: 0), place = 0
    for i in 0..<size {
      for j in i + 1..<max(size, i + 1) {
        (q[i, j], q[j, i]) = (Double(numbers[place]), -Double(numbers[place]))
        place += 1
      }
    }
    return q
  }

  package var pair: LowRankPair? { nil }
  package var input: (any InputChange)? { rotation }
  package static let isMadeAnew = true

  package func fold() {
    for block in 0..<count {
      var q = Self.skew(own.start + block * size * (size - 1) / 2, size)
      if let limit {
        let length = q.values.reduce(0) { $0 + $1 * $1 }.squareRoot()
        if length > limit { q = (limit / length) * q }
      }
      rotation.set(block, to: map.rotation(q))
    }
  }
}

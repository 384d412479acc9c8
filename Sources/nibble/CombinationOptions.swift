import ArgumentParser
import NibbleAdapters
import NibbleCore

/// Flags that say how several adapters are combined.
struct CombinationOptions: ParsableArguments {
  @Option(help: "Rank that svd keeps (default: the adapters' largest).")
  var svdRank: Int?

  @Option(help: "The share of numbers that ties, magnitude_prune, dare_linear and dare_ties keep.")
  var density: Double?

  @Option(help: "How ties and dare_ties choose a sign: total, that of the sum (default), or frequency.")
  var majoritySignMethod: MergeOptions.SignElection?

  @Option(help: "Seed of the random choice that dare_linear and dare_ties make.")
  var seed: UInt64?

  /// Each flag is for some methods only.
  func apply(_ method: MergeOptions.Method, to options: inout MergeOptions) throws {
    func check(_ isGiven: Bool, _ belongs: Bool, _ flag: String) throws {
      guard !isGiven || belongs else { throw NibbleError.usage("--\(flag) does not go with --method \(method.rawValue)") }
    }
    try check(svdRank != nil, method == .svd, "svd-rank")
    try check(density != nil, method.prunes, "density")
    try check(majoritySignMethod != nil, method.electsSigns, "majority-sign-method")
    try check(seed != nil, method.isRandom, "seed")
    if let svdRank, !(1...1 << 20).contains(svdRank) { throw NibbleError.usage("--svd-rank \(svdRank) is no rank") }
    options.method = method
    options.svdRank = svdRank
    options.density = density
    options.majoritySign = majoritySignMethod ?? .total
    options.seed = seed ?? 0
  }
}

extension MergeOptions.Method: ExpressibleByArgument {}
extension MergeOptions.SignElection: ExpressibleByArgument {}

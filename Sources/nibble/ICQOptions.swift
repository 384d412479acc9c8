import ArgumentParser
import NibbleCore
import NibbleQuant

/// Flags of `--encoder icq`.
struct ICQOptions: ParsableArguments {
  @Option(help: "icq: which offset to take: the one with the greatest entropy of codes, as published, or with the least squared error (error).")
  var icqScore: OffsetSearch.Score = .entropy

  @Option(help: "icq: of offsets with the same score, the one nearest to the median (centre) or the lowest (ascending), as published.")
  var icqOrder: OffsetSearch.Order = .centre

  @Flag(help: "icq: choose codes under the offsets before they are rounded to 8 bits, as published.")
  var icqUnrounded = false

  /// How offsets are chosen; nil where nobody asks for any.
  func search(isAsked: Bool) throws -> OffsetSearch? {
    guard isAsked else {
      let given = Arguments.given(["--icq-score", "--icq-order", "--icq-unrounded"])
      if let first = given.first { throw NibbleError.usage("\(first) is for --encoder icq") }
      return nil
    }
    var search = OffsetSearch()
    (search.score, search.order, search.roundsFirst) = (icqScore, icqOrder, !icqUnrounded)
    return search
  }
}

extension OffsetSearch.Score: ExpressibleByArgument {}
extension OffsetSearch.Order: ExpressibleByArgument {}

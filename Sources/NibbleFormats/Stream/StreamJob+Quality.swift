import NibbleCore
import NibbleQuant

/// What is refused or warned of in the values that went through.
extension StreamJob {
  /// What the container says of itself must be what was read.
  func checkClaim(_ identity: Digest128) throws {
    guard let claimed = source.claimedIdentity, items.count == source.tensors.count, claimed != identity else { return }
    throw NibbleError.integrity(
      "\(path: source.path): its tensors have the identity \(identity), the file says \(claimed)")
  }

  func checkQuality(_ item: Item, _ outcome: TensorOutcome) throws {
    let name = item.source.name.text
    if outcome.counts.nonfinite > 0, refusesNonfinite, !allowsNonfinite {
      if outcome.change != nil {
        throw NibbleError.quality(
          "\(path: output.path): \(tensor: name) would have \(outcome.counts.nonfinite) NaN or infinite values with what is merged into it; "
            + "\(.allowNonfinite) goes on all the same")
      }
      let what =
        item.target.encoding.codec.lossReach
        ?? (item.target.dtype == .f16 && item.source.dtype != .f16
          ? "values that are NaN, infinite or beyond what fp16 holds" : "NaN or infinite values")
      throw NibbleError.quality(
        "\(path: item.source.sections[0].place): \(tensor: name) has \(outcome.counts.nonfinite) \(what)"
          + (outcome.counts.finiteLost > 0 ? " (\(outcome.counts.nonfinite - outcome.counts.finiteLost) NaN or infinite in the source)" : "")
          + "; \(.allowNonfinite) goes on all the same")
    }
    if let limit = maximumError, let error = outcome.relativeError, item.target.encoding.isPacked, !(error <= limit) {
      throw NibbleError.quality(
        "\(path: item.source.sections[0].place): \(tensor: name) has a relative error of "
          + "\(decimal(error, 4, apartFrom: limit)), more than \(.maxError, limit)")
    }
  }

  /// Where rounding took more than a tenth of a change, and where there was no change at all.
  func survivalWarnings(_ report: StreamReport) -> [Warning] {
    var warnings: [Warning] = []
    let low = report.changed.filter { !($0.sums.survival >= 0.9) }
    if let worst = StreamReport.worst(low) {
      warnings.append(
        .init(
          .precision,
          "\(path: output.path): \(low.count) of \(report.changed.count) changed tensors keep less than 0.9 of their change; the worst, "
            + "\(subject: worst.name), keeps \(decimal(worst.sums.survival, 3))"))
    }
    let lost = report.changed.filter { $0.sums.survival > 1 && $0.sums.isLostInNoise }
    if let worst = lost.max(by: { $0.sums.noiseRatio < $1.sums.noiseRatio }) {
      warnings.append(
        .init(
          .precision,
          "\(path: output.path): in \(lost.count) of \(report.changed.count) changed tensors the rounding noise is larger than the change; the worst "
            + "is \(subject: worst.name), \(decimal(worst.sums.noiseRatio, 1)) times"))
    }
    let dead = report.changed.filter(\.sums.isDead)
    if let first = dead.first {
      warnings.append(
        .init(
          .unused,
          "\(dead.count) of \(report.changed.count) adapted tensors, \(subject: first.name) the first, are not changed: "
            + "the adapter is zero there"))
    }
    return warnings
  }

  /// Groups that are too small for the type of their scales.
  func underflowWarnings(_ report: StreamReport) -> [Warning] {
    let small = report.underflow
    guard let first = small.first else { return [] }
    return [
      .init(
        .precision,
        "\(path: source.path): \(small.vanished + small.subnormal) groups are too small for their 16-bit scales, the first in \(tensor: first): "
          + "\(small.vanished) become zeros, \(small.subnormal) lose precision; \(.keep, "REGEX") keeps such tensors")
    ]
  }

  /// A merge that loses what it was made for is refused before anything is visible.
  func checkSurvival(_ report: StreamReport) throws {
    if !allowsNonfinite, let broken = report.changed.first(where: { !$0.sums.isMeasured }) {
      throw NibbleError.quality(
        "\(path: output.path): what \(tensor: broken.name) keeps of its change cannot be measured: the values are too large to be "
          + "squared; \(.allowNonfinite) goes on all the same")
    }
    try checkOutputs(report.changed.filter(\.isOfOutputs))
    // A minimum of 0 refuses nothing, not even what rounding turned around.
    let lost = report.changed.filter { tensor in !tensor.isOfOutputs && tensor.minimum.map { $0 > 0 && !(tensor.sums.survival >= $0) } ?? false }
    guard let worst = StreamReport.worst(lost), let minimum = worst.minimum else { return }
    throw NibbleError.quality(
      "\(path: output.path): \(lost.count) of \(report.changed.count) changed tensors would keep less than \(minimum) of their change; the worst, "
        + "\(subject: worst.name), keeps \(decimal(worst.sums.survival, 3, apartFrom: minimum)) of a change of "
        + "\(decimal(100 * worst.sums.relativeDelta, 2)) % of the weight" + advice(for: worst.target))
  }

  /// Tensors whose codes make up for errors of others are judged together: what one of them gives differs from its own change by design.
  private func checkOutputs(_ changed: [StreamReport.Changed]) throws {
    guard let minimum = changed.compactMap(\.minimum).max(), minimum > 0, let first = changed.first else { return }
    let all = changed.reduce(into: ChangeSums()) { $0 += $1.sums }
    guard !(all.survival >= minimum) else { return }
    throw NibbleError.quality(
      "\(path: output.path): \(changed.count) changed tensors together would keep less than \(minimum) of their change: "
        + "\(decimal(all.survival, 3, apartFrom: minimum)) of what the text shows of it" + advice(for: first.target))
  }

  /// What may still save a packed tensor from losing its change.
  private func advice(for target: TensorTarget) -> MessageText {
    guard target.encoding.isPacked else { return "" }
    let container = output.format.container
    let tried = target.encoding == container.promoted ? WhenLost.promote : changing.whenLost
    let ways = tried.further.filter { way in
      switch way {
      case .promote: container.takes(container.promoted, beside: items.map(\.target.encoding))
      case .shape: target.encoding.codec.canShape
      case .calibrated: target.encoding.kind.searchesScales
      // The adapter would lie beside a base whose types are not its own.
      case .keep: !container.choosesTypes
      default: true
      }
    }.map(\.rawValue)
    let anew: MessageText = "; merge into the 16-bit original and pack that anew (\(.base, "ORIGINAL"))"
    guard let last = ways.last else { return anew }
    let listed = ways.count == 1 ? last : ways.dropLast().joined(separator: ", ") + " or " + last
    return anew + ", or use \(.whenLost, listed)"
  }
}

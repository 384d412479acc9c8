import NibbleCore
import NibbleQuant

/// What becomes of a packed tensor whose change would not survive rounding.
public enum WhenLost: String, Sendable, CaseIterable {
  /// The job stops.
  case fail
  /// The tensor is written in 8 bits: with a scale a row, or as the container has them.
  case promote
  /// The tensor is written in 16 bits.
  case sixteenBits = "16bit"
  /// The base stays as it is, with the adapter beside it: a matter of the whole output, not of this tensor.
  case keep
  /// Its codes are chosen so that the change survives, under the scales it has.
  case shape
  /// Codes and scales of every changed tensor are chosen by what the merged model does on a text: the caller decides them before the job
  /// runs.
  case calibrated

  /// What keeps more of a packed tensor's change than this does.
  var further: [WhenLost] {
    switch self {
    case .fail: [.promote, .sixteenBits, .shape, .calibrated, .keep]
    case .shape: [.calibrated, .promote, .sixteenBits, .keep]
    case .calibrated: [.shape, .promote, .sixteenBits, .keep]
    case .promote, .sixteenBits, .keep: [.sixteenBits, .keep]
    }
  }
}

extension StreamJob {
  /// The same job, with tensors that rounding would rob of their change stored in another way: everything in question is read and
  /// measured once before anything is written.
  func savingWhatIsLost() throws -> StreamJob {
    guard ![.fail, .keep, .calibrated].contains(changing.whenLost) else { return self }
    let packed = items.map(\.target).filter(\.encoding.isPacked)
    if changing.whenLost == .shape, let first = packed.first, !packed.contains(where: { $0.encoding.codec.canShape }) {
      throw NibbleError.usage(
        "\(path: source.path): \(.whenLost, "shape") chooses codes of nf4 and fp4; \(subject: first.name.text) is \(first.encoding.name)")
    }
    var job = self
    var stacks: [String: TensorTarget] = [:]
    let lost = try lostItems(least: changing.whenLost == .shape ? Self.shapedBelow : 0)
    for index in lost {
      switch changing.whenLost {
      case .fail, .keep, .calibrated: break
      case .promote: job.items[index].target.encoding = output.format.container.promoted
      case .sixteenBits: output.format.container.makePlain(&job.items[index])
      case .shape: job.items[index].isShaped = items[index].target.encoding.codec.canShape
      }
      if let stack = output.format.container.stack(items[index].target.name) { stacks[stack] = job.items[index].target }
    }
    // What lies in one tensor is stored alike.
    guard !stacks.isEmpty else { return job }
    var beside = 0
    for index in items.indices {
      guard let like = output.format.container.stack(items[index].target.name).flatMap({ stacks[$0] }) else { continue }
      if job.items[index].target.encoding != like.encoding { beside += 1 }
      (job.items[index].target.encoding, job.items[index].target.dtype) = (like.encoding, like.dtype)
    }
    if beside > 0 {
      job.warnings.append(
        .init(.data, "\(beside) experts would keep their change and are stored like one of their layer that would not: they lie in one tensor"))
    }
    return job
  }

  /// Names of packed tensors that rounding would rob of their change.
  package func lost() throws -> [String] { try lostItems().map { items[$0].target.name.text } }

  /// The share of its change below which `shape` chooses a tensor's codes. Where half of a change is kept, half is lost; where nearly all
  /// is, shaping costs more than it gains. Two adapters of stories260K lost 0.10 nats to the attached one with this share and with 0.95,
  /// 0.21 with a half, 0.37 without.
  static let shapedBelow = 0.8

  /// - Parameter least: the share of its change a tensor has to keep, where more is asked of it than its minimum
  private func lostItems(least: Double = 0) throws -> [Int] {
    let stream = stream()
    return try items.indices.filter { index in
      let item = items[index]
      guard item.target.encoding.isPacked, let minimum = changing.minimumSurvival(item.target), let change = try item.change?(),
        change.rowSpace != nil
      else { return false }
      let source = item.replacement ?? item.source
      return try !(stream.survival(source, change, as: item.target).survival >= max(minimum, least))
    }
  }
}

extension StreamJob {
  /// What plain rounding would make of the changes of packed tensors, by name. Nothing is written.
  package func roundingSurvival() throws -> [String: ChangeSums] {
    let stream = stream()
    var all: [String: ChangeSums] = [:]
    for item in items {
      guard let encoding = item.target.encoding.isPacked ? item.target.encoding : item.packable, let change = try item.change?() else {
        continue
      }
      var target = item.target
      target.encoding = encoding
      all[item.target.name.text] = try stream.survival(item.replacement ?? item.source, change, as: target)
    }
    return all
  }
}

extension StreamJob.Item {
  /// What a plain matrix that stays one would be packed with.
  fileprivate var packable: WeightEncoding? {
    source.shape.count == 2 && [.f32, .f16, .bf16].contains(source.dtype) ? WeightEncoding(BlockCodec(.nf4)) : nil
  }
}

extension TensorTarget {
  /// In 16 bits: the type it had, where that is one of these, else bfloat16.
  mutating func becomesPlain() {
    if isTransposed { shape.reverse() }
    isTransposed = false
    encoding = .plain
    stateText = nil
    foreign = ForeignLayout()
    if dtype != .f16 { dtype = .bf16 }
  }
}

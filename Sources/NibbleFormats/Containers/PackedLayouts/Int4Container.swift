import NibbleCore
import NibbleQuant

/// A container of safetensors that has a place for whole numbers of 4 bits in groups, all of one scheme.
protocol Int4Container: SafetensorsContainer {
  /// What messages call its tensors: "compressed tensors".
  var tensors: String { get }
  /// Zeros that have a place in it.
  var zeros: [Int4Groups.Zero] { get }
  /// How tensors are packed into it where nothing else is asked for.
  var ownScheme: PackingScheme { get }
  /// Why a tensor has no place in it, beside what all of these refuse; nil if it has one.
  func refusal(_ codec: Int4Groups, _ target: TensorTarget) -> MessageText?
}

/// How int4 is packed where nothing else is asked for.
public struct PackingScheme: Sendable {
  /// Elements of a group.
  public let groupSize: Int
  /// How zeros are stored.
  public let zeros: Int4Groups.Zero
}

extension Int4Container {
  var holdsCodes: Bool { true }
  var scheme: PackingScheme? { ownScheme }

  func takes(_ encoding: WeightEncoding, beside others: [WeightEncoding]) -> Bool {
    guard encoding.isPacked else { return true }
    guard let codec = encoding.codec as? Int4Groups, zeros.contains(codec.zero) else { return false }
    return others.filter(\.isPacked).allSatisfy {
      ($0.codec as? Int4Groups)?.size == codec.size && ($0.codec as? Int4Groups)?.zero == codec.zero
    }
  }

  /// For layouts that only a configuration tells from others.
  func needConfig(_ job: StreamJob) throws {
    guard job.source.config == nil, job.items.contains(where: { $0.target.encoding.isPacked }) else { return }
    throw NibbleError.usage(
      "\(path: job.source.path): there is no config.json, which says of \(tensors) how they are packed; use another \(.format)")
  }

  /// Refuses what is no int4, or not all of one kind of it.
  func checkScheme(_ job: StreamJob) throws {
    func refuse(_ target: TensorTarget, _ why: MessageText) -> NibbleError {
      .usage("\(path: job.source.path): \(subject: target.name.text) is \(why)")
    }
    let packed = job.items.map(\.target).filter(\.encoding.isPacked)
    for target in packed {
      guard let codec = target.encoding.codec as? Int4Groups else {
        throw refuse(target, "\(target.encoding.name), which has no place among \(tensors); int4 has")
      }
      guard zeros.contains(codec.zero) else {
        throw refuse(target, "\(codec.summary), which has no place among \(tensors): " + Int4Groups.Zero.advice(zeros))
      }
      guard SkippedModules.module(target.name.text) != nil else { throw refuse(target, "int4 and not called '….weight'") }
      guard target.shape[1] % 8 == 0 else { throw refuse(target, "int4 with rows of \(target.shape[1]), no multiple of 8") }
      guard !target.isTransposed else {
        throw refuse(target, "the weight of a Conv1D layer, which has no place among \(tensors); keep it, or write a block file")
      }
      if let why = refusal(codec, target) { throw refuse(target, why) }
    }
    guard job.changing.whenLost != .promote else {
      throw NibbleError.usage("\(.whenLost, "promote") writes int8 tensors, which have no place among \(tensors); use 16bit")
    }
    guard let first = packed.first, let other = packed.first(where: { !takes($0.encoding, beside: [first.encoding]) }) else {
      return
    }
    throw refuse(
      other, "\(other.encoding.summary), \(quoted(first.name.text)) \(first.encoding.summary): \(tensors) are of one scheme")
  }

  /// The scheme of a job's packed tensors; nil if nothing is packed.
  func codec(_ job: StreamJob) -> Int4Groups? { job.items.lazy.compactMap { $0.target.encoding.codec as? Int4Groups }.first }

  func record(_ job: StreamJob, _ provenance: JSON?) -> SideRecord? {
    var record = sideRecord(job, provenance)
    if keepsConfig(job) { record.config = nil }
    return record
  }

  /// Whether the source's config.json says of the output what it says of the source.
  func keepsConfig(_ job: StreamJob) -> Bool {
    guard job.source.configIsStored, job.source.layoutFormat?.rawValue == name, job.items.allSatisfy({ $0.source.encoding == $0.target.encoding }),
      let settings = QuantizationSettings(config: job.source.config, place: "")
    else { return false }
    return PackedLayouts.writes(settings, name)
  }

  func bond(_ tensor: String) -> String? {
    guard let module = SkippedModules.module(tensor) else { return nil }
    return FusedLinears.all.firstIndex { $0.contains { module.hasSuffix("." + $0) } }.flatMap { index in
      module.lastIndex(of: ".").map { module[...$0] + FusedLinears.all[index].joined(separator: ",") }
    }
  }

  /// vLLM computes q, k and v, or gate and up, in one product: they must share a scheme.
  func fusedWarnings(_ job: StreamJob) -> [Warning] {
    let linears = job.items.map(\.target).filter { $0.module != nil }
    for fused in FusedLinears.all {
      var packed: [String: Set<Bool>] = [:]
      for target in linears {
        guard let module = target.module, let name = fused.first(where: { module.hasSuffix("." + $0) }) else { continue }
        packed[String(module.dropLast(name.count)), default: []].insert(target.encoding.isPacked)
      }
      if let layer = packed.filter({ $0.value.count > 1 }).keys.min() {
        return [
          .init(
            .compatibility,
            "\(path: job.output.path): vLLM computes \(fused.joined(separator: ", ")) together and does not load the folder: in "
              + "\(subject: String(layer.dropLast())) some of them are packed and some are not")
        ]
      }
    }
    return []
  }
}

/// Layers that vLLM computes in one product.
private enum FusedLinears {
  static let all = [["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]]
}

extension Int4Groups.Zero {
  /// The options that give one of these.
  fileprivate static func advice(_ zeros: [Self]) -> MessageText {
    let ways: [MessageText] = zeros.map { $0 == .none ? "\(.symmetric)" : "\(.zeros, $0.rawValue)" }
    return ways.dropFirst().reduce("quantize with " + (ways.first ?? "")) { $0 + " or " + $1 }
  }
}

import NibbleCore
import NibbleFormats

/// Whether a base is the one that adapters were trained on, as far as they say.
public struct BaseMatch: Sendable {
  /// How the base is packed to become what they were trained on, as `--trained-on` spells it; nil if it is that already.
  public private(set) var trainedOn: String?
  /// The identity that must come out of packing.
  public private(set) var packedIdentity: Digest128?
  /// Things worth telling.
  public private(set) var warnings: [Warning] = []

  /// What `--trained-on` says where the adapters are to meet the original's values all the same.
  public static let original = "original"

  /// Compares `base` with what each adapter says of its own.
  ///
  /// - Parameters:
  ///   - known: the identity of `base`, where it has been found
  ///   - given: `--trained-on`, if there was one
  ///   - anyBase: warns where it would refuse
  /// - Throws: `.adapterMismatch` for another base's adapter
  public init(
    _ base: Checkpoint, _ adapters: [AdapterFile], identity known: Digest128? = nil, trainedOn given: String? = nil,
    anyBase: Bool = false, threads: Int = availableCores
  ) throws {
    let meetsOriginal = given == Self.original
    guard !meetsOriginal || base.packed.isEmpty else {
      throw NibbleError.usage("\(.trainedOn, Self.original): \(path: base.path) is packed, not an original")
    }
    trainedOn = meetsOriginal ? nil : given
    var identity = known ?? base.claimedIdentity
    var asItIs: AdapterFile?
    for adapter in adapters {
      guard let binding = adapter.binding else {
        try hint(adapter, base, given)
        continue
      }
      let own = try identity ?? base.hash(threads: threads)
      identity = own
      if own == binding.base {
        asItIs = adapter
        guard given == nil || meetsOriginal else {
          throw NibbleError.usage(
            "\(path: adapter.path) was trained on \(base.path) as it is, not on a packed form of it; leave out \(.trainedOn)")
        }
        continue
      }
      if own == binding.source, meetsOriginal {
        warnings.append(
          .init(
            .identity,
            "\(path: adapter.path) was trained on a packed form of \(base.path); as asked, it meets the original's values"))
        continue
      }
      if own == binding.source, let packing = binding.packing {
        if let other = packedIdentity, other != binding.base, !anyBase {
          throw NibbleError(
            .adapterMismatch,
            "\(path: adapter.path) was trained on another packed form of \(base.path) than the adapters before it")
        }
        trainedOn = given ?? packing
        packedIdentity = binding.base
        continue
      }
      if let source = base.provenance?["source"]?.string.flatMap({ Digest128(hex: $0) }), source == binding.base {
        warnings.append(.init(.identity, "\(path: adapter.path) was trained on what \(base.path) was packed from"))
        continue
      }
      let message: MessageText =
        "\(path: adapter.path) was trained on a base with the identity \(binding.base), \(base.path) has \(own)"
      guard anyBase else { throw NibbleError(.adapterMismatch, message + "; \(.anyBase) goes on all the same") }
      warnings.append(.init(.identity, message))
    }
    if let asItIs, packedIdentity != nil {
      let message: MessageText =
        "\(path: asItIs.path) was trained on \(base.path) as it is, another adapter on a packed form of it"
      guard anyBase else {
        throw NibbleError(.adapterMismatch, message + "; \(.anyBase) merges both onto the packed form's values")
      }
      warnings.append(.init(.identity, message))
    }
  }

  /// What the name of the base gives away.
  private mutating func hint(_ adapter: AdapterFile, _ base: Checkpoint, _ given: String?) throws {
    guard given == nil, base.packed.isEmpty, let name = adapter.config.baseName,
      ["-bnb-4bit", "-4bit", "-nf4"].contains(where: name.lowercased().hasSuffix)
    else { return }
    warnings.append(
      .init(
        .identity,
        "\(path: adapter.path) names \(quoted(name)) as its base, a 4-bit form; \(.trainedOn, "nf4") merges onto the values it was trained on"
      ))
  }

  /// Throws if the packed form of the base is not what the adapters were trained on.
  public func check(_ packed: Checkpoint, of base: Checkpoint, anyBase: Bool) throws {
    guard let expected = packedIdentity, let found = packed.claimedIdentity, expected != found, !anyBase else { return }
    throw NibbleError(
      .adapterMismatch,
      "the packed form of \(path: base.path) made with \(.trainedOn, trainedOn ?? "") has the identity \(found), the adapter was trained on \(expected); \(.anyBase) goes on all the same"
    )
  }
}

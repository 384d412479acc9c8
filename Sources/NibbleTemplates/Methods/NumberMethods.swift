/// What numbers have behind a dot.
enum NumberMethods {
  static let properties: [Text: @Sendable (Value) -> Value] = [
    "real": { if case .float = $0 { $0 } else { .int($0.index ?? 0) } },
    "imag": { if case .float = $0 { .float(0) } else { .int(0) } },
  ]

  static let onlyOfInts: Set<Text> = ["bit_length", "bit_count"]
  static let onlyOfFloats: Set<Text> = ["is_integer"]

  static let all: [Text: Method] = [
    "conjugate": { owner, _, _ in properties["real"]?(owner) ?? owner },
    "bit_length": { owner, _, _ in .int(Int.bitWidth - (owner.index?.magnitude.leadingZeroBitCount ?? Int.bitWidth)) },
    "bit_count": { owner, _, _ in .int(owner.index?.magnitude.nonzeroBitCount ?? 0) },
    "is_integer": { owner, _, _ in
      guard case .float(let value) = owner else { return .bool(true) }
      return .bool(value.isFinite && value.rounded() == value)
    },
  ]
}

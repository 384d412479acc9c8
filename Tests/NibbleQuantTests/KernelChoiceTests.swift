import NibbleQuant
import Testing

@Suite("Which kernels are chosen")
struct KernelChoiceTests {
  static let emerald = Processor(vendor: "GenuineIntel", family: 6, model: 0xCF)
  static let turin = Processor(vendor: "AuthenticAMD", family: 26, model: 0x02)
  static let unknown = Processor(vendor: "GenuineIntel", family: 19, model: 1)

  static func choose(
    _ processor: Processor, widest: KernelVariant = .avx512bf16, forced: String? = nil, rate: @autoclosure () -> Double = .nan
  ) -> KernelChoice {
    let order: [KernelVariant] = [.portable, .avx2, .avx512, .avx512bf16]
    let runs = Set(order.prefix { $0 != widest } + [widest])
    return KernelChoice(forced: forced, processor: processor, runs: runs.contains, rate: rate)
  }

  @Test("a machine's own choice runs")
  func own() {
    #expect(KernelVariant.current.runs)
    #expect(KernelVariant.portable.runs)
  }

  @Test(
    "the dot product is used where it is fast, not where it only is",
    arguments: [
      (emerald, KernelVariant.avx512), (Processor(vendor: "GenuineIntel", family: 6, model: 0x8F), .avx512), (turin, .avx512bf16),
    ])
  func known(_ processor: Processor, _ variant: KernelVariant) {
    // A rate that is not a number would show that something was measured.
    let choice = Self.choose(processor)
    #expect(choice.variant == variant)
    #expect(choice.reason.contains("by the table of processors"), "\(choice.reason)")
  }

  @Test(
    "unknown processors are measured",
    arguments: [(0.5, KernelVariant.avx512), (1.1, .avx512), (1.8, .avx512bf16), (2, .avx512bf16), (.nan, .avx512)])
  func unknown(_ rate: Double, _ variant: KernelVariant) {
    // The vendor and the family have to fit, too.
    for processor in [
      Self.unknown, Processor(vendor: "", family: 0, model: 0), Processor(vendor: "AuthenticAMD", family: 26, model: 0x50),
    ] {
      let choice = Self.choose(processor, rate: rate)
      #expect(choice.variant == variant)
      #expect(choice.reason.contains("measured"), "\(choice.reason)")
    }
  }

  @Test("without the dot product the widest instructions are used", arguments: [KernelVariant.portable, .avx2, .avx512])
  func older(_ widest: KernelVariant) {
    #expect(Self.choose(Self.unknown, widest: widest).variant == widest)
  }

  @Test("a forced variant is used where it runs, and else the choice says so")
  func forced() {
    for variant in [KernelVariant.portable, .avx2, .avx512, .avx512bf16] {
      #expect(Self.choose(Self.emerald, forced: variant.rawValue).variant == variant)
    }
    let other = Self.choose(Self.emerald, widest: .avx2, forced: "avx512")
    #expect(other.variant == .avx2 && other.reason.contains("NIBBLE_KERNELS=avx512 does not run here"))
    #expect(Self.choose(Self.turin, forced: "fast").variant == .avx512bf16)
  }

  @Test("what is measured here agrees with the table, and is the same each time", .enabled(if: KernelVariant.avx512bf16.runs))
  func measurement() {
    let rates = (0..<5).map { _ in DotProduct.measured() }
    #expect(rates.allSatisfy { $0 > 0.2 && $0 < 4 }, "\(rates)")
    #expect(Set(rates.map { $0 >= DotProduct.least }).count == 1, "\(rates)")
    if let kind = DotProduct.kind(of: .current) {
      #expect((kind.rate >= DotProduct.least) == (rates[0] >= DotProduct.least), "\(kind.name): \(rates)")
    }
  }
}

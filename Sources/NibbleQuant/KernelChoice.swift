import CNibbleKernels
import Glibc

/// The processor as CPUID names it; empty and 0 where there is none.
package struct Processor: Hashable, Sendable {
  package var vendor: String
  package var family: Int
  package var model: Int
  /// For people; a virtual machine may say anything here.
  package var name: String

  package init(vendor: String, family: Int, model: Int, name: String = "") {
    (self.vendor, self.family, self.model, self.name) = (vendor, family, model, name)
  }

  package static let current: Processor = {
    let native = nibble_this_processor()
    func text<Characters>(_ characters: Characters) -> String {
      withUnsafeBytes(of: characters) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
    let name = text(native.name).split(separator: " ").joined(separator: " ")
    return Processor(vendor: text(native.vendor), family: Int(native.family), model: Int(native.model), name: name)
  }()
}

/// Whether the bfloat16 dot product pays: how many products of numbers it makes in the time of one float32 multiply-add.
///
/// Having the instruction says nothing: it makes two products at a time, at the rate of the multiply-add on AMD's Zen 5, at a
/// quarter of it on Intel's Sapphire Rapids. Known processors are looked up, because the choice decides the last bits of results
/// and must not change from run to run; unknown ones are measured, and the limit lies in the gap between the rates there are.
package enum DotProduct {
  /// Processors of one kind.
  package struct Kind: Sendable {
    package var name: String
    package var vendor: String
    package var family: Int
    package var models: [ClosedRange<Int>]
    /// As tools/KernelBench measured it.
    package var rate: Double
  }

  package static let kinds = [
    Kind(name: "AMD Zen 5", vendor: "AuthenticAMD", family: 26, models: [0...0x2F, 0x40...0x4F, 0x60...0x7F], rate: 2),
    Kind(
      name: "Intel Sapphire Rapids or Emerald Rapids", vendor: "GenuineIntel", family: 6, models: [0x8F...0x8F, 0xCF...0xCF],
      rate: 0.5),
  ]

  /// The rate from which the dot product is used. Instructions have whole rates, so the products' is 2, 1 or 1/2: no noise takes a
  /// measurement across this limit.
  package static let least = 1.5

  package static func kind(of processor: Processor) -> Kind? {
    kinds.first { kind in
      kind.vendor == processor.vendor && kind.family == processor.family && kind.models.contains { $0 ~= processor.model }
    }
  }

  /// The rate on this machine, measured; 0 without the instruction.
  package static func measured() -> Double { nibble_dot_product_rate() }
}

/// Which kernels are used, and why.
package struct KernelChoice: Sendable {
  package var variant: KernelVariant
  /// Why, for people.
  package var reason: String

  /// The choice of this process, made once: the variant that the environment variable `NIBBLE_KERNELS` names, else the best one.
  package static let current = KernelChoice(
    forced: getenv("NIBBLE_KERNELS").map { String(cString: $0) }, processor: .current, runs: \.runs, rate: DotProduct.measured)

  /// - Parameters:
  ///   - forced: a variant's name
  ///   - runs: whether the machine has a variant
  ///   - rate: measures the dot product of a processor that is in no table
  package init(
    forced: String?, processor: Processor, runs: (KernelVariant) -> Bool, rate: () -> Double
  ) {
    if let forced, let variant = KernelVariant(rawValue: forced), runs(variant) {
      self.init(variant: variant, reason: "NIBBLE_KERNELS asks for them")
      return
    }
    self.init(best: processor, runs, rate)
    if let forced { reason = "NIBBLE_KERNELS=\(forced) does not run here; \(reason)" }
  }

  private init(best processor: Processor, _ runs: (KernelVariant) -> Bool, _ rate: () -> Double) {
    let widest = [KernelVariant.avx512bf16, .avx512, .avx2, .neon].first(where: runs) ?? .portable
    guard widest == .avx512bf16 else {
      self.init(
        variant: widest, reason: widest == .portable ? "no other set of instructions is here" : "the widest instructions here")
      return
    }
    let kind = DotProduct.kind(of: processor)
    let rate = kind?.rate ?? rate()
    let source = kind.map { "by the table of processors, \($0.name)" } ?? "measured, for the processor is in no table"
    let text = (rate * 100).rounded() / 100
    self.init(
      variant: rate >= DotProduct.least ? .avx512bf16 : .avx512,
      reason: "the bfloat16 dot product makes \(text) times as many products as the float32 multiply-add, \(source)")
  }

  private init(variant: KernelVariant, reason: String) { (self.variant, self.reason) = (variant, reason) }
}

import NibbleCore

/// Every method. Another is one more file and its name here.
package enum AdapterMethods {
  private static let known: [any AdapterMethod.Type] = [
    LoRA.self, DoRA.self, QALoRA.self, IEC.self, QBaRA.self, QAHiRA.self,
    AdaLoRA.self, VeRA.self, IA3.self, LoHa.self, LoKr.self, OFT.self, BOFT.self, HRA.self, MiSS.self,
  ]
  /// Methods a program brings itself.
  @TaskLocal package static var added: [any AdapterMethod.Type] = []

  static var all: [any AdapterMethod.Type] { known + added }

  /// The method of adapters of this kind with these keys set to `true`; nil if there is none.
  static func method(kind: String, flags: Set<String>) -> (any AdapterMethod.Type)? {
    let own = all.filter { $0.kind == kind }
    return own.first { $0.flag.map(flags.contains) ?? false } ?? own.first { $0.flag == nil }
  }

  /// The method that the parts of a file show, where its configuration describes another.
  static func shown(by parts: Set<String>, insteadOf other: any AdapterMethod.Type) -> (any AdapterMethod.Type)? {
    all.first { $0.isShown(by: parts, insteadOf: other) }
  }

  /// Keys that are true or false.
  static var flags: [String] { all.flatMap { one in (one.flag.map { [$0] } ?? []) + one.parts.compactMap(\.flag) } }

  /// The part that a tensor's name ends with, and what precedes it; nil for names that end with none.
  static func part(_ name: String) -> (path: String, suffix: String, part: String)? {
    for method in all {
      for part in method.parts {
        guard let suffix = part.suffixes.first(where: { name.hasSuffix($0) }) else { continue }
        return (String(name.dropLast(suffix.utf8.count)), suffix, part.name)
      }
    }
    return nil
  }
}

extension AdapterMethod {
  /// What in `adapter_config.json` tells the method from others of its kind.
  package static var flagMembers: [(String, JSON)] {
    AdapterMethods.all.filter { $0.kind == kind && ($0 == self || $0.flagIsCommon) }
      .compactMap { one in one.flag.map { ($0, .bool(one == self)) } }
  }
}

/// What training can be asked for.
package struct TrainableMethod: Sendable {
  /// On the command line.
  package let name: String
  package let method: any AdapterMethod.Type
  /// Whether the scale is alpha / √rank instead of alpha / rank.
  package let isRankStabilized: Bool
  /// Parts that stay as they begin.
  package let frozen: Set<String>

  init(_ name: String, _ method: any AdapterMethod.Type, isRankStabilized: Bool = false, frozen: Set<String> = []) {
    (self.name, self.method, self.isRankStabilized, self.frozen) = (name, method, isRankStabilized, frozen)
  }

  package static let all = [
    TrainableMethod("lora", LoRA.self),
    TrainableMethod("rslora", LoRA.self, isRankStabilized: true),
    TrainableMethod("dora", DoRA.self),
    TrainableMethod("qalora", QALoRA.self),
    TrainableMethod("iec", IEC.self),
    TrainableMethod("qbara", QBaRA.self),
    TrainableMethod("qahira", QAHiRA.self),
    // LoRA-FA, arXiv:2308.03303.
    TrainableMethod("lora-fa", LoRA.self, frozen: [LoRA.first]),
    TrainableMethod("delta-lora", DeltaLoRA.self),
    TrainableMethod("adalora", AdaLoRA.self),
    TrainableMethod("vera", VeRA.self),
    TrainableMethod("ia3", IA3.self),
    TrainableMethod("loha", LoHa.self),
    TrainableMethod("lokr", LoKr.self),
    TrainableMethod("oft", OFT.self),
    TrainableMethod("boft", BOFT.self),
    TrainableMethod("hra", HRA.self),
    TrainableMethod("miss", MiSS.self),
  ]

  package static func named(_ name: String) -> TrainableMethod? {
    (all + AdapterMethods.added.map { TrainableMethod($0.kind.lowercased(), $0) })
      .first { $0.name == name }
  }

}

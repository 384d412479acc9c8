import NibbleCore
import NibbleQuant

extension KernelChoice {
  /// The kernels of this process and why it took them, on one line.
  package var summary: String { "\(variant.rawValue): \(reason)" }
}

/// What this process computes with.
package enum ComputeSetting {
  /// Cores of OpenBLAS that were written before AVX: it takes one where it does not know a newer processor.
  private static let oldCores: Set = [
    "Prescott", "Core2", "Penryn", "Dunnington", "Nehalem", "Katmai", "Coppermine", "Northwood", "Banias",
  ]

  /// Headings and texts: the processor, the kernels and why they were chosen, OpenBLAS.
  package static func rows() -> [(String, String)] {
    let processor = Processor.current
    let choice = KernelChoice.current
    var rows: [(String, String)] = []
    if !processor.vendor.isEmpty {
      let name = processor.name.isEmpty ? "unnamed" : processor.name
      rows.append(("processor", "\(name) (\(processor.vendor), family \(processor.family), model \(processor.model))"))
    }
    let others = KernelVariant.allCases.filter { $0.runs && $0 != choice.variant }.map(\.rawValue)
    rows += [
      ("kernels", choice.summary), ("", "NIBBLE_KERNELS may ask for \(others.joined(separator: ", "))"),
      ("products in bf16", choice.variant == .avx512bf16 ? "dot products of pairs" : "float32 multiply-adds of rounded factors"),
    ]
    let core = BLAS.coreName
    rows.append(("OpenBLAS", core.map { "kernels for \($0)\(BLAS.configuration.map { " (\($0))" } ?? "")" } ?? "not installed"))
    if let advice { rows.append(("", advice)) }
    return rows
  }

  /// What would make OpenBLAS faster here.
  package static var advice: String? {
    guard let core = BLAS.coreName, oldCores.contains(core), KernelChoice.current.variant != .portable else { return nil }
    return "written before AVX; OPENBLAS_CORETYPE=\(KernelVariant.avx512.runs ? "SkylakeX" : "Haswell") asks for newer ones"
  }
}

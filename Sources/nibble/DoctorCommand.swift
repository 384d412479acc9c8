import ArgumentParser
import Glibc
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant
import NibbleTokenizers

struct DoctorCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor", abstract: "Describe this machine and this build: what a bug report needs.",
    discussion: "The output contains no path of yours: the cache folder is named by the variable or default it comes from.")

  @Flag(help: "Print one JSON document on standard output.") var json = false

  func run() throws {
    let (cache, folder) = (HubCache.place, Machine.freeDisk(at: "."))
    let limits: [(name: String, bytes: Int?)] = [
      ("memory", Machine.memory), ("memory_available", Machine.availableMemory), ("memory_limit", Machine.memoryLimit),
      ("disk_free_here", folder), ("disk_free_cache", cache.exists ? Machine.freeDisk(at: cache.path) : nil),
    ]
    let libraries = LinkedLibraries.versions + [("utf8proc", UnicodeForm.libraryVersion)]
    guard !json else { return try printJSON(cache, limits, libraries) }
    let findings = findings(folder)
    try StandardOutput.print(findings.isEmpty ? "nothing is missing" : findings.joined(separator: "\n"))
    var rows: [(String, String)] = [
      ("nibble", "\(nibbleVersion), \(Self.build)"), ("system", Machine.system), ("cores", "\(availableCores) usable"),
    ]
    rows += ComputeSetting.rows()
    let available = Machine.availableMemory.map { ", \(byteText($0)) available" } ?? ""
    rows.append(
      ("memory", byteText(Machine.memory) + available + (Machine.memoryLimit.map { ", limited to \(byteText($0))" } ?? "")))
    rows += [
      ("disk", folder.map { "\(byteText($0)) free in this folder" } ?? "unknown"),
      (
        "cache",
        cache.exists
          ? "\(cache.name): \(cache.models) models, \(Machine.freeDisk(at: cache.path).map(byteText) ?? "?") free" : "\(cache.name): not there"
      ),
      ("libraries", libraries.map { "\($0.name) \($0.version)" }.joined(separator: ", ")),
    ]
    let variables = Self.variables
    if !variables.isEmpty { rows.append(("environment", variables.map { "\($0.name)=\($0.value)" }.joined(separator: " "))) }
    try Summary.printRows(rows)
  }

  private func printJSON(
    _ cache: HubCache.Place, _ limits: [(name: String, bytes: Int?)], _ libraries: [(name: String, version: String)]
  ) throws {
    let (processor, choice) = (Processor.current, KernelChoice.current)
    let others = KernelVariant.allCases.filter { $0.runs && $0 != choice.variant }.map(\.rawValue)
    let first: [(key: String, value: JSON)] = [
      ("version", JSON(nibbleVersion)), ("build", JSON(Self.build)), ("system", JSON(Machine.system)), ("cores", JSON(availableCores)),
      (
        "processor",
        [
          "name": JSON(processor.name), "vendor": JSON(processor.vendor), "family": JSON(processor.family),
          "model": JSON(processor.model),
        ]
      ),
      ("kernels", ["variant": JSON(choice.variant.rawValue), "reason": JSON(choice.reason), "others": JSON(others)]),
      ("blas", BLAS.coreName.map { ["core": JSON($0), "configuration": JSON(BLAS.configuration)] } ?? .null),
    ]
    let last: [(key: String, value: JSON)] = [
      ("cache", ["folder": JSON(cache.name), "exists": .bool(cache.exists), "models": JSON(cache.models)]),
      ("libraries", .object(libraries.map { ($0.name, JSON($0.version)) })),
      ("environment", .object(Self.variables.map { ($0.name, JSON($0.value)) })),
      ("findings", JSON(findings(Machine.freeDisk(at: ".")))),
    ]
    try StandardOutput.print(JSON.object(first + limits.map { ($0.name, $0.bytes.map { JSON($0) } ?? .null) } + last))
  }

  private func findings(_ disk: Int?) -> [String] {
    var findings: [String] = []
    if !BLAS.isThere { findings.append("OpenBLAS is not installed: float models run slowly, and 'adapter' verbs need it (libopenblas0)") }
    if let advice = ComputeSetting.advice { findings.append("OpenBLAS runs slow kernels: \(advice)") }
    if KernelChoice.current.variant == .portable { findings.append("only the portable kernels run here: expect a tenth of the speed") }
    if let disk, disk < 1 << 30 { findings.append("less than 1 GB is free in this folder") }
    return findings
  }

  private static var build: String {
    #if DEBUG
      "debug build"
    #else
      "release build"
    #endif
  }

  /// Variables that change what is computed.
  private static var variables: [(name: String, value: String)] {
    ["NIBBLE_KERNELS", "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"].compactMap { name in
      getenv(name).map { (name, oneLine(String(cString: $0))) }
    }
  }
}

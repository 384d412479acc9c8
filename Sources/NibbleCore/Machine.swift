import Glibc

/// What this machine has.
public enum Machine {
  /// Bytes of its memory.
  public static var memory: Int { Int(sysconf(Int32(_SC_PHYS_PAGES))) * Int(sysconf(Int32(_SC_PAGESIZE))) }

  /// Bytes that can be had without swapping; nil where the kernel does not say.
  public static var availableMemory: Int? {
    guard let text = try? readSmall("/proc/meminfo"), let line = text.split(separator: "\n").first(where: { $0.hasPrefix("MemAvailable:") })
    else { return nil }
    return line.split(separator: " ").dropFirst().first.flatMap { Int($0) }.map { $0 << 10 }
  }

  /// Bytes that this process's control group may have, where that is less than all.
  public static var memoryLimit: Int? {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
    let limit = files.lazy.compactMap { try? readSmall($0) }.compactMap { Int($0.split(separator: "\n").first ?? "") }.first
    return limit.flatMap { $0 < memory ? $0 : nil }
  }

  /// Bytes free on the disk that `path` lies on; nil where there is no such path.
  public static func freeDisk(at path: String) -> Int? {
    var status = statvfs()
    guard statvfs(path, &status) == 0 else { return nil }
    let (bytes, overflow) = Int(status.f_bavail).multipliedReportingOverflow(by: Int(status.f_frsize))
    return overflow ? nil : bytes
  }

  /// The system's own name and the kernel's version: `Debian GNU/Linux 12 (bookworm), Linux 6.1.0 x86_64`.
  public static var system: String {
    let release = (try? readSmall("/etc/os-release")) ?? ""
    let line = release.split(separator: "\n").first { $0.hasPrefix("PRETTY_NAME=") }
    let name = line.map { $0.dropFirst("PRETTY_NAME=".count).filter { $0 != "\"" } }
    var kernel = utsname()
    uname(&kernel)
    func text<Characters>(_ characters: Characters) -> String {
      withUnsafeBytes(of: characters) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
    return (name.map { "\($0), " } ?? "") + "\(text(kernel.sysname)) \(text(kernel.release)) \(text(kernel.machine))"
  }
}

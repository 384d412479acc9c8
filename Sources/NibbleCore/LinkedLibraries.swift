import CPCRE2
import CXXHash
import CYAML
import CZstd
import Glibc

/// Libraries of the system that this process works with, for bug reports.
public enum LinkedLibraries {
  /// Names and versions, as the libraries themselves give them.
  public static var versions: [(name: String, version: String)] {
    let hash = XXH_versionNumber()
    return [
      ("zstd", String(cString: ZSTD_versionString())), ("xxHash", "\(hash / 10000).\(hash / 100 % 100).\(hash % 100)"),
      ("PCRE2", pcre2), ("libyaml", String(cString: yaml_get_version_string())),
      ("sentencepiece", file(beginning: "libsentencepiece.so") ?? "not loaded"), ("glibc", glibc),
    ]
  }

  /// Its header is not among those that Swift imports.
  private static var glibc: String {
    dlsym(nil, "gnu_get_libc_version").map { unsafeBitCast($0, to: (@convention(c) () -> UnsafePointer<CChar>).self) }
      .map { String(cString: $0()) } ?? "unknown"
  }

  private static var pcre2: String {
    var text = [UInt8](repeating: 0, count: 64)
    guard pcre2_config_8(UInt32(PCRE2_CONFIG_VERSION), nil) <= text.count else { return "unknown" }
    pcre2_config_8(UInt32(PCRE2_CONFIG_VERSION), &text)
    return String(decoding: text.prefix { $0 != 0 }, as: UTF8.self)
  }

  /// The name, without its folder, of the loaded file whose name begins so: of libraries that do not say their version.
  private static func file(beginning name: String) -> String? {
    guard let maps = try? readSmall("/proc/self/maps") else { return nil }
    let path = maps.split(separator: "\n").first { $0.split(separator: "/").last?.hasPrefix(name) ?? false }
    return path.flatMap { $0.split(separator: "/").last.map(String.init) }
  }
}

/// The text of a file of the kernel's, whose size is not known beforehand; what is beyond a megabyte is cut off.
package func readSmall(_ path: String) throws -> String {
  guard let file = fopen(path, "re") else { throw NibbleError.badInput("\(path): \(errorText(errno))") }
  defer { fclose(file) }
  var bytes = [UInt8](repeating: 0, count: 1 << 20)
  let count = fread(&bytes, 1, bytes.count, file)
  return String(decoding: bytes[..<count], as: UTF8.self)
}

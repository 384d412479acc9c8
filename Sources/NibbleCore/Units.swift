import Glibc

/// "2.47 GB": bytes in powers of a thousand, as disks and the hub count them.
package func byteText(_ count: Int) -> String {
  var value = Double(count)
  for unit in ["bytes", "kB", "MB", "GB", "TB"] {
    if value < 1000 || unit == "TB" {
      return unit == "bytes" ? "\(count) bytes" : "\(decimal(value, value < 10 ? 2 : value < 100 ? 1 : 0)) \(unit)"
    }
    value /= 1000
  }
  return "\(count) bytes"
}

/// Zero for what rounding brought below it. NaN stays NaN, where `max(0, value)` would make it zero.
package func notBelowZero(_ value: Double) -> Double { value < 0 ? 0 : value }

/// `value` with `places` digits behind the point.
package func decimal(_ value: Double, _ places: Int) -> String {
  guard value.isFinite else { return "\(value)" }
  var buffer = [CChar](repeating: 0, count: 400)
  withVaList([Int32(places), value]) { _ = vsnprintf(&buffer, buffer.count, "%.*f", $0) }
  return buffer.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
}

/// `value` with `places` digits behind the point, or as many more as it takes to read on the side of `limit` it is on.
package func decimal(_ value: Double, _ places: Int, apartFrom limit: Double) -> String {
  for places in places..<places + 12 {
    let text = decimal(value, places)
    if let read = Double(text), read < limit, value < limit { return text }
    if let read = Double(text), read > limit, value > limit { return text }
  }
  return decimal(value, places)
}

/// Reads "5GB", "300MB", "1GiB", "4096": a whole or decimal number and a unit.
package func parseBytes(_ text: String) -> Int? {
  let units: [(String, Double)] = [
    ("kib", 1024), ("mib", 1_048_576), ("gib", 1_073_741_824), ("tib", 1_099_511_627_776),
    ("kb", 1e3), ("mb", 1e6), ("gb", 1e9), ("tb", 1e12), ("b", 1), ("", 1),
  ]
  let lower = text.lowercased()
  for (unit, factor) in units where lower.hasSuffix(unit) {
    guard let number = Double(lower.dropLast(unit.count)), number >= 0, number * factor < 9e18 else { continue }
    return Int(number * factor)
  }
  return nil
}

/// Seconds on a clock that only runs forward.
package func monotonicSeconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

/// Seconds this thread has worked: what others do on the machine does not count.
package func threadSeconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

/// What this process has used so far.
package struct ResourceUse: Sendable {
  package let peakBytes: Int
  package let userSeconds: Double
  package let systemSeconds: Double

  /// The kernel's high-water mark for this program. `ru_maxrss` would count the parent before `exec` too.
  private static var peakResidentBytes: Int? { status("VmHWM:") }

  /// Memory that is no mapped file, now.
  package static var anonymousBytes: Int { status("RssAnon:") ?? 0 }

  private static func status(_ key: String) -> Int? {
    guard let file = fopen("/proc/self/status", "r") else { return nil }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 256)
    while fgets(&line, Int32(line.count), file) != nil {
      let text = line.withUnsafeBufferPointer { $0.baseAddress.map { String(cString: $0) } ?? "" }
      guard text.hasPrefix(key) else { continue }
      return text.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) }.map { $0 * 1024 }
    }
    return nil
  }

  package static var now: ResourceUse {
    var use = rusage()
    getrusage(RUSAGE_SELF.rawValue, &use)
    func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) * 1e-6 }
    return ResourceUse(
      peakBytes: peakResidentBytes ?? use.ru_maxrss * 1024, userSeconds: seconds(use.ru_utime),
      systemSeconds: seconds(use.ru_stime))
  }
}

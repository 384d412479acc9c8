import Glibc

/// `strftime_now`: the local time by a format of `strftime`.
enum TimeFormat {
  /// - Parameter seconds: since 1970
  static func text(_ format: Text, at seconds: Int) throws -> Text {
    guard !format.isEmpty else { return "" }
    var time = time_t(seconds), parts = tm()
    guard localtime_r(&time, &parts) != nil else { throw TemplateError(.value, "the time \(seconds) has no date") }
    // `%f` is Python's own.
    let own = format.replacing("%f", with: "000000", limit: .max)
    // The mark in front distinguishes a text that comes out empty from one that does not fit.
    let marked = "x" + own.string
    guard !marked.utf8.contains(0), marked.utf8.count < 4096 else { throw TemplateError(.value, "a date's format with a zero or too long") }
    var buffer = [CChar](repeating: 0, count: 65_536)
    let count = strftime(&buffer, buffer.count, marked, &parts)
    guard count > 0 else { throw TemplateError(.value, "a date's text of more than \(buffer.count) bytes") }
    return Text(String(decoding: buffer[1..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self))
  }
}

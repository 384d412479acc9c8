import CPCRE2

/// A regular expression that answers in bounded time, whoever wrote it.
///
/// PCRE2 with limits on steps, memory and nesting: a pattern that would backtrack for ever is an error, not a hang.
public final class Pattern: @unchecked Sendable {
  // A compiled pattern is read only after `init`; match data is made for each call.
  private let code: OpaquePointer
  private let context: OpaquePointer?
  /// The pattern as it was written.
  public let text: String

  /// Compiles `text`.
  ///
  /// - Throws: `.usage` if `text` is no regular expression.
  public init(_ text: String) throws {
    let bytes = Array(text.utf8)
    var number: CInt = 0
    var place = 0
    guard bytes.count <= 10_000,
      let code = pcre2_compile_8(
        bytes, bytes.count, UInt32(PCRE2_UTF) | UInt32(PCRE2_NEVER_BACKSLASH_C), &number, &place, nil)
    else {
      if bytes.count > 10_000 { throw NibbleError.usage("pattern of \(bytes.count) bytes is longer than 10000") }
      var buffer = [UInt8](repeating: 0, count: 200)
      let length = max(0, Int(pcre2_get_error_message_8(number, &buffer, buffer.count)))
      let reason = String(decoding: buffer.prefix(length), as: UTF8.self)
      throw NibbleError.usage("pattern \(quoted(text)) is no regular expression: \(reason) at character \(place)")
    }
    self.code = code
    self.text = text
    context = pcre2_match_context_create_8(nil)
    pcre2_set_match_limit_8(context, 200_000)
    pcre2_set_depth_limit_8(context, 20_000)
    pcre2_set_heap_limit_8(context, 16_384)  // KiB
  }

  deinit {
    pcre2_match_context_free_8(context)
    pcre2_code_free_8(code)
  }

  /// Whether the pattern is found anywhere in `subject`.
  ///
  /// - Throws: `.usage` if finding out takes more steps than any sensible pattern needs.
  public func isFound(in subject: String) throws -> Bool {
    let data = pcre2_match_data_create_from_pattern_8(code, nil)
    defer { pcre2_match_data_free_8(data) }
    let bytes = Array(subject.utf8)
    let result = pcre2_match_8(code, bytes, bytes.count, 0, 0, data, context)
    if result >= 0 { return true }
    if result == PCRE2_ERROR_NOMATCH { return false }
    throw NibbleError.usage("pattern \(quoted(text)) takes too many steps on \(quoted(subject))")
  }
}

import CPCRE2

/// A regular expression from an untrusted source: it answers in bounded time.
///
/// PCRE2 with limits on steps, memory and nesting: a pattern that would backtrack for ever is an error, not a hang.
public final class Pattern: @unchecked Sendable {
  // A compiled pattern is read only after `init`; match data is made for each call.
  private let code: OpaquePointer
  private let context: OpaquePointer?
  private let kind: NibbleError.Kind
  /// The pattern as it was written.
  public let text: String

  /// Compiles `text`.
  ///
  /// - Throws: `.usage` if `text` is no regular expression.
  public convenience init(_ text: String) throws {
    try self.init(text, options: 0, kind: .usage, steps: 200_000, heapKiB: 16_384)
  }

  /// Compiles a pattern that came in a file: classes such as `\w` are Unicode's, and whole texts are gone through.
  ///
  /// - Parameters:
  ///   - lineAnchors: whether `^` and `$` match at every line, as they do in Oniguruma
  ///   - isTrusted: whether the pattern is known to take little time on any text: no clock is looked at while it runs
  /// - Throws: `.badInput` if `text` is no regular expression.
  package convenience init(ofFile text: String, lineAnchors: Bool, isTrusted: Bool = false) throws {
    let anchors = lineAnchors ? PCRE2_MULTILINE : PCRE2_DOLLAR_ENDONLY
    let callouts = isTrusted ? 0 : PCRE2_AUTO_CALLOUT
    try self.init(
      text, options: UInt32(PCRE2_UCP) | UInt32(anchors) | UInt32(callouts), kind: .badInput, steps: 20_000_000,
      heapKiB: 262_144)
    // Where it cannot be translated, the interpreter does the work.
    pcre2_jit_compile_8(code, UInt32(PCRE2_JIT_COMPLETE))
  }

  private init(_ text: String, options: UInt32, kind: NibbleError.Kind, steps: UInt32, heapKiB: UInt32) throws {
    let bytes = Array(text.utf8)
    let longest = kind == .usage ? 10_000 : 100_000
    var number: CInt = 0
    var place = 0
    guard bytes.count <= longest,
      let code = pcre2_compile_8(
        bytes, bytes.count, options | UInt32(PCRE2_UTF) | UInt32(PCRE2_NEVER_BACKSLASH_C), &number, &place, nil)
    else {
      if bytes.count > longest { throw NibbleError(kind, "pattern of \(bytes.count) bytes is longer than \(longest)") }
      var buffer = [UInt8](repeating: 0, count: 200)
      let length = max(0, Int(pcre2_get_error_message_8(number, &buffer, buffer.count)))
      let reason = String(decoding: buffer.prefix(length), as: UTF8.self)
      throw NibbleError(kind, "pattern \(subject: text) is no regular expression: \(reason) at character \(place)")
    }
    self.code = code
    self.text = text
    self.kind = kind
    context = pcre2_match_context_create_8(nil)
    pcre2_set_match_limit_8(context, steps)
    pcre2_set_depth_limit_8(context, steps / 10)
    pcre2_set_heap_limit_8(context, heapKiB)
  }

  deinit {
    pcre2_match_context_free_8(context)
    pcre2_code_free_8(code)
  }

  /// Whether the pattern is found anywhere in `subject`.
  ///
  /// - Throws: if finding out takes more steps than any sensible pattern needs.
  public func isFound(in subject: String) throws -> Bool {
    let search = PatternSearch(code, context: context, seconds: 5)
    return try Array(subject.utf8).withUnsafeBufferPointer {
      try search.next(code, in: $0, at: 0, options: 0, tooManySteps: tooManySteps(on: quoted(subject))) != nil
    }
  }

  private func tooManySteps(on subject: String) -> NibbleError {
    NibbleError(kind, "pattern \(subject: text) takes too many steps on \(subject)")
  }

  /// Calls `body` with the place of each match, from left to right and without overlap.
  ///
  /// An empty match counts, but not one that follows right after another match.
  ///
  /// - Parameter bytes: valid UTF-8
  /// - Throws: if it takes more steps, or much more time, than any sensible pattern needs.
  package func forEachMatch(
    in bytes: UnsafeBufferPointer<UInt8>, _ body: (_ start: Int, _ end: Int) throws -> Void
  ) throws {
    guard bytes.baseAddress != nil else { return }
    let search = PatternSearch(code, context: context, seconds: 5 + Double(bytes.count) * 5e-6)
    var at = 0
    var lastEnd = -1
    while at <= bytes.count,
      let match = try search.next(
        code, in: bytes, at: at, options: UInt32(PCRE2_NO_UTF_CHECK),
        tooManySteps: tooManySteps(on: "a text of \(bytes.count) bytes"))
    {
      // `\K` can put a start past the end, or before what was matched already.
      let start = max(match.start, lastEnd, 0)
      let end = max(match.end, start)
      if start < end || start != lastEnd {
        try body(start, end)
        lastEnd = end
      }
      at = max(end, at)
      if start == end {
        at += 1
        while at < bytes.count, bytes[at] & 0xC0 == 0x80 { at += 1 }
      }
    }
  }
}

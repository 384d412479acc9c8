import CPCRE2

/// A regular expression that answers in bounded time, whoever wrote it.
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
  /// - Parameter lineAnchors: whether `^` and `$` match at every line, as they do in Oniguruma.
  /// - Throws: `.badInput` if `text` is no regular expression.
  package convenience init(ofFile text: String, lineAnchors: Bool) throws {
    let anchors = lineAnchors ? PCRE2_MULTILINE : PCRE2_DOLLAR_ENDONLY
    try self.init(
      text, options: UInt32(PCRE2_UCP) | UInt32(anchors), kind: .badInput, steps: 20_000_000, heapKiB: 262_144)
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
      throw NibbleError(kind, "pattern \(quoted(text)) is no regular expression: \(reason) at character \(place)")
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
    let data = pcre2_match_data_create_from_pattern_8(code, nil)
    defer { pcre2_match_data_free_8(data) }
    let bytes = Array(subject.utf8)
    let result = pcre2_match_8(code, bytes, bytes.count, 0, 0, data, context)
    if result >= 0 { return true }
    if result == PCRE2_ERROR_NOMATCH { return false }
    throw tooManySteps(on: quoted(subject))
  }

  private func tooManySteps(on subject: String) -> NibbleError {
    NibbleError(kind, "pattern \(quoted(text)) takes too many steps on \(subject)")
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
    // Each match has a limit of its own; a pattern that looks ahead to the end every time needs one for them all.
    let deadline = monotonicSeconds() + 5 + Double(bytes.count) * 5e-6
    let data = pcre2_match_data_create_from_pattern_8(code, nil)
    defer { pcre2_match_data_free_8(data) }
    guard let base = bytes.baseAddress, let vector = pcre2_get_ovector_pointer_8(data) else { return }
    var at = 0
    var lastEnd = -1
    var count = 0
    while at <= bytes.count {
      count += 1
      if count & 0x3FF == 0 {
        try Interrupt.check()
        if monotonicSeconds() > deadline { throw tooManySteps(on: "a text of \(bytes.count) bytes") }
      }
      var result = pcre2_match_8(code, base, bytes.count, at, UInt32(PCRE2_NO_UTF_CHECK), data, context)
      if result == PCRE2_ERROR_JIT_STACKLIMIT {
        result = pcre2_match_8(
          code, base, bytes.count, at, UInt32(PCRE2_NO_UTF_CHECK) | UInt32(PCRE2_NO_JIT), data, context)
      }
      if result == PCRE2_ERROR_NOMATCH { return }
      guard result >= 0 else { throw tooManySteps(on: "a text of \(bytes.count) bytes") }
      // `\K` can put a start past the end, or before what was matched already.
      let start = max(Int(vector[0]), lastEnd, 0)
      let end = max(Int(vector[1]), start)
      if start < end || start != lastEnd {
        try body(start, end)
        lastEnd = end
      }
      at = max(end, at)
      if start == end {
        at += 1
        while at < bytes.count, base[at] & 0xC0 == 0x80 { at += 1 }
      }
    }
  }
}

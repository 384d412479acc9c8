import CPCRE2

/// One use of a pattern on one text: where matches go, and the clock that ends a search that would not end by itself. It counts the
/// thread's own work only.
final class PatternSearch {
  private let data: OpaquePointer?
  private let context: OpaquePointer?
  private let deadline: Double
  private var looks = 0

  /// - Parameters:
  ///   - context: the pattern's limits
  ///   - seconds: of work after which the search is given up
  init(_ code: OpaquePointer, context limits: OpaquePointer?, seconds: Double) {
    data = pcre2_match_data_create_from_pattern_8(code, nil)
    context = pcre2_match_context_copy_8(limits)
    deadline = threadSeconds() + seconds
    pcre2_set_callout_8(
      context, { _, search in search.map { Unmanaged<PatternSearch>.fromOpaque($0).takeUnretainedValue().look() } ?? 0 },
      Unmanaged.passUnretained(self).toOpaque())
  }

  deinit {
    pcre2_match_context_free_8(context)
    pcre2_match_data_free_8(data)
  }

  /// Called between two items of a pattern, millions of times a second: a few bytes or a whole text lie between two calls.
  private func look() -> CInt {
    looks &+= 1
    return looks & 0x3F == 0 && isOver ? PCRE2_ERROR_CALLOUT : 0
  }

  private var isOver: Bool { threadSeconds() > deadline || Interrupt.hasCome }

  /// The first match from byte `at` on, as bytes of the text; `nil` where there is none.
  ///
  /// - Throws: `tooManySteps` where a limit was met, or what `Interrupt` throws.
  func next(
    _ code: OpaquePointer, in bytes: UnsafeBufferPointer<UInt8>, at: Int, options: UInt32,
    tooManySteps: @autoclosure () -> NibbleError
  ) throws -> (start: Int, end: Int)? {
    // Patterns that are trusted do not look at the clock themselves.
    if look() != 0 { try Interrupt.check(); throw tooManySteps() }
    var result = pcre2_match_8(code, bytes.baseAddress, bytes.count, at, options, data, context)
    if result == PCRE2_ERROR_JIT_STACKLIMIT {
      result = pcre2_match_8(code, bytes.baseAddress, bytes.count, at, options | UInt32(PCRE2_NO_JIT), data, context)
    }
    if result == PCRE2_ERROR_NOMATCH { return nil }
    guard result >= 0, let vector = pcre2_get_ovector_pointer_8(data) else {
      try Interrupt.check()
      throw tooManySteps()
    }
    return (Int(vector[0]), Int(vector[1]))
  }
}

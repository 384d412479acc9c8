import Glibc

/// Runs work that recurses on a thread with a stack of a known size: how much the caller's own has left is anyone's guess.
enum DeepStack {
  private static let size = 256 << 20

  private final class Work {
    let body: () -> Void
    init(_ body: @escaping () -> Void) { self.body = body }
  }

  /// - Throws: what `body` throws, or a template error where no thread is to be had
  static func run<R>(_ body: () throws -> R) throws -> R {
    var result: Result<R, any Error>?
    try withoutActuallyEscaping(body) { body in
      var attributes = pthread_attr_t()
      pthread_attr_init(&attributes)
      defer { pthread_attr_destroy(&attributes) }
      pthread_attr_setstacksize(&attributes, size)
      let work = Unmanaged.passRetained(Work { result = Result { try body() } })
      var thread = pthread_t()
      let code = pthread_create(
        &thread, &attributes,
        { argument in
          guard let argument else { return nil }
          Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body()
          return nil
        }, work.toOpaque())
      guard code == 0 else {
        work.release()
        throw TemplateError(.limit, "no thread to render a template on: \(String(cString: strerror(code)))")
      }
      pthread_join(thread, nil)
    }
    guard let result else { throw TemplateError(.limit, "the template's thread ended without a result") }
    return try result.get()
  }
}

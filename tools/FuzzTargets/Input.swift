import Glibc
import NibbleCore

/// One input of the fuzzer: a byte that chooses, and the bytes of the file.
struct Input {
  let choice: UInt8
  let bytes: [UInt8]

  init(_ data: UnsafeRawBufferPointer) {
    choice = data.first ?? 0
    bytes = Array(data.dropFirst())
  }

  /// The bytes as files, cut at zeros.
  var parts: [[UInt8]] { bytes.split(separator: 0, omittingEmptySubsequences: false).map(Array.init) }
}

/// Stops the fuzzer, which keeps the input, where something that always holds does not.
func expect(_ condition: Bool, _ what: @autoclosure () -> String) {
  guard !condition else { return }
  let text = "does not hold: \(what())\n"
  Glibc.write(STDERR_FILENO, text, text.utf8.count)
  abort()
}

/// A file of Tests/Fixtures; the program is run in the repository's folder.
func fixture(_ name: String) -> [UInt8] {
  let bytes = (try? InputFile("Tests/Fixtures/" + name)).flatMap { try? $0.bytes(at: 0, count: $0.size) }
  expect(bytes != nil, "Tests/Fixtures/\(name) is there")
  return bytes ?? []
}

/// A folder in memory for readers that take paths; one a process.
enum Folder {
  static let path: String = {
    let path = "/dev/shm/nibble-fuzz-\(getpid())"
    mkdir(path, 0o700)
    atexit { Folder.remove() }
    return path
  }()

  /// Writes a file into it.
  ///
  /// - Parameter length: to which the file is drawn out, with a hole
  static func write(_ name: String, _ bytes: [UInt8], length: Int? = nil) -> String {
    let path = path + "/" + name
    let file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    expect(file >= 0 && Glibc.write(file, bytes, bytes.count) == bytes.count, "\(path) can be written")
    if let length, length > bytes.count { ftruncate(file, length) }
    close(file)
    return path
  }

  private static func remove() {
    for name in (try? namesInFolder(path)) ?? [] { unlink(path + "/" + name) }
    rmdir(path)
  }
}

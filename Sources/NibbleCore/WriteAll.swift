import Glibc

/// Writes all of `bytes` into an open file.
///
/// - Parameter path: for the message
/// - Throws: `.cannotWrite`
package func writeAll(_ bytes: [UInt8], to descriptor: Int32, at offset: Int, _ path: String) throws {
  var done = 0
  while done < bytes.count {
    let count = bytes[done...].withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, off_t(offset + done)) }
    if count < 0, errno == EINTR { continue }
    guard count > 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno)) while writing") }
    done += count
  }
}

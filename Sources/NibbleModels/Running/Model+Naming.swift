import NibbleCore

extension Model {
  /// Runs `body`, and names the model in what it says of numbers that are not finite: networks know their layers, not their file.
  ///
  /// - Throws: what `body` throws, `.quality` with the model's path before it
  package func naming<Found>(_ body: () throws -> Found) throws -> Found {
    do { return try body() } catch let error as NibbleError where error.kind == .quality {
      throw NibbleError(.quality, "\(path: path): \(error.text)")
    }
  }
}

import Glibc
import NibbleCore
import NibbleQuant

/// Codes that were decided, in a file beside the output: what a calibration that was stopped goes on from.
///
/// The first record names the job: whatever decides a code is part of that name. The streams of layers that are done are computed once
/// more, which is the smaller part of the work.
final class CodeJournal {
  private let file: RecordFile
  private let place: MessageText
  private var known: [String: [UInt8]] = [:]
  /// Tensors that an earlier run decided.
  let taken: Int

  /// - Parameters:
  ///   - output: the file that is going to be written
  ///   - job: what decides the codes
  /// - Throws: `.cannotWrite`, `.usage` while another process has it open
  init(beside output: String, job: Digest128) throws {
    let path = Self.path(output)
    place = "\(path: path)"
    file = try RecordFile(path)
    let title = Array("nibble codes 1, job \(job)".utf8)
    if file.records.first != title {
      try file.clear()
      try file.append(title)
    }
    for record in file.records.dropFirst() {
      var reader = ByteReader(record, place: place)
      if let name = try? reader.text() { known[name] = record }
    }
    taken = known.count
  }

  /// Throws `.usage` while another process writes what is beside an output.
  static func check(beside output: String) throws {
    if PathKind(path(output)) != .nothing { _ = try GrowingFile(path(output)) }
  }

  /// Removes what is beside an output.
  static func remove(beside output: String) { unlink(path(output)) }

  private static func path(_ output: String) -> String { RecordFile.path(beside: output, "nibble-codes") }

  /// What was decided of a tensor; nil if nothing was.
  ///
  /// - Throws: `.badInput` for a record of another form
  func decision(_ target: CalibrationPass.Target) throws -> TensorCoder.Decision? {
    guard let record = known[target.name] else { return nil }
    var reader = ByteReader(record, place: place)
    _ = try reader.text()
    let sections = try (0..<reader.u32()).map { _ in try reader.take(reader.count()) }
    var decision = TensorCoder.Decision(codes: DecidedCodes(target.codec, sections: sections))
    if try reader.u8() == 1 { decision.certificate = try TensorCertificate(&reader, name: target.name) }
    if try reader.u8() == 1 { decision.correction = try Correction(&reader) }
    return decision
  }

  /// Writes down what was decided of a tensor.
  func note(_ target: CalibrationPass.Target, _ decision: TensorCoder.Decision) throws {
    var writer = ByteWriter()
    writer.text(target.name)
    writer.u32(decision.codes.sections.count)
    for section in decision.codes.sections {
      writer.u64(section.count)
      writer.append(section)
    }
    writer.u8(decision.certificate == nil ? 0 : 1)
    decision.certificate?.write(&writer)
    writer.u8(decision.correction == nil ? 0 : 1)
    decision.correction?.write(&writer)
    try file.append(writer.bytes)
  }
}

extension ByteWriter {
  fileprivate mutating func double(_ value: Double) { u64(value.bitPattern) }
  fileprivate mutating func floats(_ values: [Float]) {
    u64(values.count)
    for value in values { u32(Int(value.bitPattern)) }
  }
}

extension ByteReader {
  fileprivate mutating func double() throws -> Double { Double(bitPattern: try u64()) }
  fileprivate mutating func floats() throws -> [Float] {
    let count = try count()
    guard count <= 1 << 40 else { throw fail("\(count) numbers") }
    let bytes = try take(4 * count)
    return bytes.withUnsafeBytes { bytes in (0..<count).map { Float(bitPattern: bytes.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self)) } }
  }
}

extension TensorCertificate {
  fileprivate func write(_ writer: inout ByteWriter) {
    for count in [tokens, capped, measured] { writer.u64(count) }
    for flag in [isHeldOut, isTaken] { writer.u8(flag ? 1 : 0) }
    for value in [before, after, moved, damping, share] { writer.double(value) }
    writer.u8(corrected == nil ? 0 : 1)
    if let corrected { writer.double(corrected) }
    writer.u8(change == nil ? 0 : 1)
    if let change { for value in [change.kept, change.delta, change.base, change.noise] { writer.double(value) } }
  }

  fileprivate init(_ reader: inout ByteReader, name: String) throws {
    let counts = try (0..<3).map { _ in try reader.count() }
    let flags = try (0..<2).map { _ in try reader.u8() == 1 }
    let values = try (0..<5).map { _ in try reader.double() }
    self.init(
      name: name, tokens: counts[0], capped: counts[1], measured: counts[2], isHeldOut: flags[0], before: values[0], after: values[1],
      moved: values[2], damping: values[3], share: values[4], isTaken: flags[1],
      corrected: try reader.u8() == 1 ? try reader.double() : nil,
      change: try reader.u8() == 1
        ? ChangeSums(kept: try reader.double(), delta: try reader.double(), base: try reader.double(), noise: try reader.double()) : nil)
  }
}

extension Correction {
  fileprivate func write(_ writer: inout ByteWriter) {
    writer.text(module)
    writer.u32(rank)
    writer.double(share)
    writer.floats(a)
    writer.floats(b)
  }

  fileprivate init(_ reader: inout ByteReader) throws {
    let module = try reader.text(), rank = try reader.u32(), share = try reader.double()
    self.init(module: module, a: try reader.floats(), b: try reader.floats(), rank: rank, share: share)
  }
}

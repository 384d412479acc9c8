import Foundation
import NibbleCore

/// The built command-line program, run as a user runs it.
public struct Program {
  public struct Result {
    public let code: Int32
    /// The signal that ended it, if one did.
    public let signal: Int32?
    public let output: String
    public let errors: String

    /// Standard error as lines.
    public var errorLines: [String] { errors.split(separator: "\n").map(String.init) }
  }

  /// The one that `NIBBLE` names, or the one beside the test program.
  public static let path: String = {
    if let named = ProcessInfo.processInfo.environment["NIBBLE"] { return named }
    let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
    return (own as NSString).deletingLastPathComponent + "/nibble"
  }()

  /// Runs a command line through `/bin/sh`, where `nibble` is the program.
  public static func shell(_ command: String, folder: String) throws -> Result {
    try run(["-c", "nibble() { \"$NIBBLE_PROGRAM\" \"$@\"; }\n" + command], program: "/bin/sh", environment: ["NIBBLE_PROGRAM": path], folder: folder)
  }

  public static func run(
    _ arguments: [String], program: String = path, environment: [String: String] = [:], standardInput: Pipe? = nil,
    standardOutput: FileHandle? = nil, folder: String? = nil, whileRunning: (Process) -> Void = { _ in }
  ) throws -> Result {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: program)
    process.arguments = arguments
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    if let folder { process.currentDirectoryURL = URL(fileURLWithPath: folder) }
    let out = TemporaryFolder()
    try out.write("out", "")
    try out.write("err", "")
    let output = try FileHandle(forWritingTo: URL(fileURLWithPath: out.file("out")))
    let errors = try FileHandle(forWritingTo: URL(fileURLWithPath: out.file("err")))
    process.standardOutput = standardOutput ?? output
    process.standardError = errors
    process.standardInput = standardInput ?? FileHandle.nullDevice
    try process.run()
    whileRunning(process)
    process.waitUntilExit()
    let wasSignalled = process.terminationReason == .uncaughtSignal
    return Result(
      code: process.terminationStatus, signal: wasSignalled ? process.terminationStatus : nil,
      output: String(decoding: try bytes(of: out.file("out")), as: UTF8.self),
      errors: String(decoding: try bytes(of: out.file("err")), as: UTF8.self))
  }
}

import Glibc
import NibbleCore

/// How a step is to be called.
package struct StepCall: Sendable {
  package let step: Step
  /// What it writes; nil for a step whose report is all.
  package let output: String?
  /// Where the outputs are that it takes.
  package let inputs: [StepKey: String]
  package let threads: Int
  /// Whether an interrupted run of the same step left something to go on with.
  package let continues: Bool
  /// Whether something is to be replaced.
  package let replaces: Bool
}

/// Runs the steps of a sweep, as many at once as cores and memory allow; what is done already stays as it is.
///
/// A step is done when its record is on the disk, so the sweep may end at any time.
package final class SweepRunner {
  /// A step that did not come to its end.
  package struct Failure: Sendable {
    package let code: Int32
    /// The verb's own line.
    package let message: String
  }

  package enum State: Sendable {
    case waiting, running
    case done(StepRecord)
    case failed(Failure)
    /// A step that it needs failed.
    case blocked
  }

  package enum Event {
    case started(Step)
    case ended(Step, State)
  }

  private struct Running {
    let child: ChildProgram
    let call: StepCall
    let command: String
    let started: Double
  }

  private let folder: SweepFolder
  private let graph: StepGraph
  private let program: String
  private let version: String
  /// The command line of a call.
  private let words: (StepCall) throws -> [String]
  /// As it can be typed.
  private let spelled: ([String]) -> String
  /// Steps at once, and threads of all of them together.
  package var jobs = 1
  package var threads = availableCores
  /// Bytes of memory that steps may take together, and what is known of each.
  package var memory = Int.max
  package var needs: [StepKey: Int] = [:]

  package private(set) var states: [StepKey: State] = [:]
  private var running: [StepKey: Running] = [:]
  /// Steps that could not go on with what an interrupted run left, and begin anew.
  private var anew: Set<StepKey> = []
  /// Steps that this sweep began.
  package private(set) var begun = 0

  package init(
    _ graph: StepGraph, in folder: SweepFolder, program: String = "/proc/self/exe", version: String, words: @escaping (StepCall) throws -> [String],
    spelled: @escaping ([String]) -> String
  ) {
    (self.graph, self.folder, self.program, self.version, self.words, self.spelled) = (graph, folder, program, version, words, spelled)
    for key in graph.order {
      guard let step = graph.steps[key] else { continue }
      states[key] = StepRecord(of: step, in: folder.place(step)).map { .done($0) } ?? .waiting
    }
    // Outputs may have been removed to save room: they are made again if something still needs them.
    for key in graph.order.reversed() {
      guard let step = graph.steps[key], case .waiting = states[key] else { continue }
      for need in step.needs {
        guard let before = graph.steps[need], case .done = states[need], PathKind(folder.output(before)) == .nothing else { continue }
        states[need] = .waiting
      }
    }
  }

  package var left: Int { states.values.count { if case .done = $0 { false } else { true } } }

  /// Runs to the end.
  ///
  /// - Throws: `.interrupted` and `.terminated` once the steps in hand have ended; `.cannotWrite`, `.failed` where no step can be started
  package func run(only verbs: Set<Verb> = Set(Verb.allCases), _ tell: (Event) throws -> Void) throws {
    try Interrupt.finishing {
      do { try loop(verbs, tell) } catch {
        stop(SIGTERM)
        throw error
      }
    }
  }

  private func loop(_ verbs: Set<Verb>, _ tell: (Event) throws -> Void) throws {
    while true {
      for (key, one) in running { if let code = one.child.code() { try end(key, one, code, tell) } }
      if let signal = Interrupt.error {
        stop(signal.kind == .terminated ? SIGTERM : SIGINT)
        throw NibbleError(signal.kind, "\(signal.text) with \(left) of \(graph.order.count) steps left; the same command goes on with them")
      }
      while running.count < jobs, let key = next(verbs) { try start(key, tell) }
      guard !running.isEmpty else { return }
      usleep(10_000)
    }
  }

  /// Ends what runs. What has come to its end by then is done.
  private func stop(_ signal: Int32) {
    for one in running.values { one.child.signal(signal) }
    while !running.isEmpty {
      for (key, one) in running { if let code = one.child.code() { try? end(key, one, code) { _ in } } }
      usleep(10_000)
    }
  }

  /// The first step of the plan that can be started now.
  private func next(_ verbs: Set<Verb>) -> StepKey? {
    let used = running.keys.reduce(0) { $0 + (needs[$1] ?? 0) }
    return graph.order.first { key in
      guard case .waiting = states[key], let step = graph.steps[key], verbs.contains(step.verb) else { return false }
      let isReady = step.needs.allSatisfy { if case .done = states[$0] { true } else { false } }
      return isReady && (running.isEmpty || needs[key] ?? 0 <= memory - used)
    }
  }

  /// A step gets its share of the threads, or all of them where it is alone for now.
  private func share(_ verbs: Set<Verb>) -> Int {
    running.isEmpty && next(verbs) == nil ? threads : max(1, threads / max(1, jobs))
  }

  private func start(_ key: StepKey, _ tell: (Event) throws -> Void) throws {
    guard let step = graph.steps[key] else { return }
    states[key] = .running
    begun += 1
    let place = folder.place(step)
    let held = try hold(place)
    let output = step.output.map { place + "/" + $0 }
    let isThere = output.map { PathKind($0) != .nothing } ?? false
    let call = StepCall(
      step: step, output: output, inputs: Dictionary(uniqueKeysWithValues: Set(step.needs).compactMap { need in graph.steps[need].map { (need, folder.output($0)) } }),
      threads: share(Set(Verb.allCases)), continues: step.verb != .finetune || isThere && !anew.contains(key) && PathKind((output ?? "") + "/run.yaml") == .file, replaces: isThere)
    let words = try words(call)
    let command = spelled(words)
    StepRecord.remove(from: place)
    try TextFile.write(command + "\n", to: place + "/command.txt", force: true)
    // The folder stays locked until the program has its own copy of the descriptor.
    let child = try withExtendedLifetime(held) {
      try ChildProgram(program, words, output: place + "/report.partial", log: place + "/log.txt", kept: held.descriptor)
    }
    running[key] = Running(child: child, call: call, command: command, started: monotonicSeconds())
    try tell(.started(step))
  }

  /// Locks a step's folder; the program that runs in it holds the lock. One that a killed sweep left ends with that, but perhaps not at once.
  private func hold(_ place: String) throws -> FolderLock {
    var attempts = 0
    return try FolderLock(place) {
      usleep(20_000)
      attempts += 1
      return attempts < 500 && Interrupt.error == nil
    }
  }

  private func end(_ key: StepKey, _ one: Running, _ code: Int32, _ tell: (Event) throws -> Void) throws {
    running[key] = nil
    let (step, place) = (one.call.step, folder.place(one.call.step))
    // What was left may be of another version, or damaged.
    if [2, 3, 4].contains(code), step.verb == .finetune, one.call.continues, anew.insert(key).inserted {
      states[key] = .waiting
      return
    }
    let state: State
    if code == 0 {
      if let report = Self.report(place + "/report.partial") {
        let seconds = one.call.output.flatMap { TrainingCurve($0)?.seconds } ?? monotonicSeconds() - one.started
        let record = StepRecord(command: one.command, version: version, seconds: seconds, report: report)
        try record.write(step, in: place)
        if let output = one.call.output, step.verb == .finetune { Self.removeCheckpoints(output) }
        unlink(place + "/report.partial")
        state = .done(record)
      } else {
        state = .failed(Failure(code: 1, message: "the verb printed no report"))
      }
    } else {
      state = .failed(Failure(code: code, message: Self.reason(place + "/log.txt", code)))
    }
    states[key] = state
    if case .failed = state { block(key) }
    try tell(.ended(step, state))
  }

  private func block(_ key: StepKey) {
    for other in graph.order {
      guard case .waiting = states[other], graph.steps[other]?.needs.contains(key) == true else { continue }
      states[other] = .blocked
      block(other)
    }
  }

  private static func report(_ path: String) -> JSON? {
    guard let file = try? InputFile(path), file.size <= 1 << 28, let json = try? JSON.parse(file.bytes(at: 0, count: file.size)), json.members != nil else { return nil }
    return json
  }

  /// What a verb says that failed, without who says it.
  private static func reason(_ log: String, _ code: Int32) -> String {
    let mark = "nibble: error: "
    if let file = try? InputFile(log), let bytes = try? file.bytes(at: max(0, file.size - 65_536), count: min(file.size, 65_536)),
      let line = String(decoding: bytes, as: UTF8.self).split(separator: "\n").last(where: { $0.hasPrefix(mark) })
    {
      return String(line.dropFirst(mark.count))
    }
    return code > 128 ? "the verb was ended by signal \(code - 128)" : "the verb ended with code \(code)"
  }

  /// Checkpoints are for resuming, and the run is done.
  private static func removeCheckpoints(_ folder: String) {
    for name in (try? namesInFolder(folder)) ?? [] where name.hasPrefix("checkpoint-") && isOwnFolder(folder + "/" + name) {
      for file in (try? namesInFolder(folder + "/" + name)) ?? [] { unlink(folder + "/" + name + "/" + file) }
      rmdir(folder + "/" + name)
    }
  }
}

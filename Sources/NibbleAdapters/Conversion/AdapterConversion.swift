import NibbleCore
import NibbleFormats

/// An adapter in another program's layout. What was written is read again and compared before it becomes visible.
public struct AdapterConversion: Sendable {
  /// Whose layout.
  public enum Layout: String, Sendable, CaseIterable {
    case peft, mlx, gguf
    /// PEFT's folder with one rank and one scale for all modules: what programs compute with that read no patterns.
    case uniform = "peft-uniform"

    /// What lies at `path`.
    ///
    /// - Throws: `.badInput` for what is no adapter
    public init(of path: String) throws {
      switch PathKind(path) {
      case .folder: self = MLXLayout.isOne(path) ? .mlx : .peft
      case .file:
        let file = try InputFile(path)
        guard try file.bytes(at: 0, count: min(4, file.size)) == GgufFile.magic else {
          throw NibbleError.badInput("\(path: path): neither an adapter folder nor a GGUF file")
        }
        self = .gguf
      default: throw NibbleError.badInput("\(path: path): no such adapter")
      }
    }
  }

  /// What converting did.
  public struct Report: Sendable {
    public var from = Layout.peft
    public var to = Layout.peft
    public var modules = 0
    /// The largest.
    public var rank = 0
    /// ‖Δ read again − Δ‖ / ‖Δ‖ of the worst module.
    public var difference = 0.0
    /// Its path.
    public var worstModule = ""
    /// Things worth telling that stopped nothing.
    public var warnings: [Warning] = []
  }

  /// What no rounding of float32 explains.
  private static let most = 1e-5

  private let path: String
  private let from: Layout
  private let to: Layout
  private let base: Checkpoint?
  private let gguf: GGUFLayout?

  /// - Parameter base: what the adapter is for; needed where llama.cpp's names and order of rows come in, else a check of names and
  ///   shapes
  /// - Throws: `.usage` for conversions that are none, `.badInput`
  public init(_ path: String, to: Layout, base: Checkpoint? = nil) throws {
    (self.path, self.to, self.base) = (path, to, base)
    from = try Layout(of: path)
    guard try from != to || from == .peft && AdapterFile.open(path).config.method.foldsToLoRA else {
      throw NibbleError.usage("\(path: path) has \(to.rawValue)'s layout already")
    }
    guard from == .gguf || to == .gguf else {
      gguf = nil
      return
    }
    guard let base else {
      throw NibbleError.usage(
        "\(.base) is needed: names in GGUF files, and the order of rows, depend on the base's configuration")
    }
    gguf = try GGUFLayout(base)
  }

  /// Writes `output`, a folder or a GGUF file.
  public func write(to output: String, force: Bool) throws -> Report {
    let contents = try source()
    try checkInputs(output)
    let shape: StagedOutput.Shape = to == .gguf ? .file : .folder(owns: AdapterFolder.owns)
    let staged = try StagedOutput(output, shape, force: force)
    do {
      switch to {
      case .peft: try contents.folder(for: base).write(into: staged)
      case .uniform: try contents.uniform().folder(for: base).write(into: staged)
      case .mlx: try MLXLayout.folder(contents).write(into: staged)
      case .gguf: try ggufWriter(contents).write(to: staged)
      }
      var report = report(contents)
      (report.difference, report.worstModule) = try contents.distance(to: read(staged.staging, to))
      guard report.difference < Self.most else {
        throw NibbleError(
          .failed,
          "\(path: output): read again, the change of \(subject: report.worstModule) is \(report.difference) of its length away"
        )
      }
      if to == .peft || to == .uniform, let base { try AdapterFile.open(staged.staging).checkFits(base, as: path) }
      try staged.publish()
      return report
    } catch {
      staged.discard()
      throw error
    }
  }

  /// What would be written, as far as can be said without writing it.
  public func report() throws -> Report {
    let contents = try source()
    switch to {
    case .peft: break
    case .uniform: _ = try contents.uniform()
    case .mlx: _ = try MLXLayout.folder(contents)
    case .gguf: _ = try ggufWriter(contents)
    }
    return report(contents)
  }

  private func report(_ contents: AdapterContents) -> Report {
    Report(from: from, to: to, modules: contents.modules.count, rank: contents.largestRank, warnings: contents.warnings)
  }

  private func source() throws -> AdapterContents {
    let contents = try read(path, from)
    return to == .mlx ? try MLXLayout.ofLanguageModel(contents) : contents
  }

  private func ggufWriter(_ contents: AdapterContents) throws -> GgufWriter {
    guard let gguf else { throw NibbleError.usage("\(.base) is needed") }
    return try gguf.writer(contents)
  }

  private func read(_ path: String, _ layout: Layout) throws -> AdapterContents {
    switch layout {
    case .peft, .uniform:
      let file = try AdapterFile.open(path)
      if from == .peft, let base { try file.checkFits(base, as: path) }
      return try AdapterContents(file, base: from == .peft ? base : nil)
    case .mlx: return try MLXLayout.contents(path)
    case .gguf:
      guard let gguf else { throw NibbleError.usage("\(.base) is needed") }
      return try gguf.contents(path)
    }
  }

  private func checkInputs(_ output: String) throws {
    let names =
      PathKind(path) == .file ? [path] : try namesInFolder(path).map { path + "/" + $0 }.filter { PathKind($0) == .file }
    try StreamJob.checkIsNone(of: try names.map { try InputFile($0) } + (base?.files ?? []), output)
  }
}

extension AdapterFile {
  /// Throws unless every module is one of the base's, of its shape.
  func checkFits(_ base: Checkpoint, as path: String) throws {
    do {
      let (fitted, adapters) = try base.fitted(to: [.init(self)])
      var plan = MergePlan(fitted)
      for one in adapters { try plan.add(one) }
    } catch let error as NibbleError {
      throw NibbleError(error.kind, error.text.replacing(path: self.path, with: path))
    }
  }
}

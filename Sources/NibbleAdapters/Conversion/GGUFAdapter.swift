import NibbleCore
import NibbleFormats

/// An adapter in llama.cpp's layout, read without its base: what it holds, under llama.cpp's names.
public struct GGUFAdapter: Sendable {
  /// One adapted tensor.
  public struct Module: Sendable {
    /// llama.cpp's name of the base's tensor, without `.weight`.
    public let name: String
    public let inputs: Int
    public let outputs: Int
    public let rank: Int
    /// What the product of the factors is multiplied with: alpha / rank, 1 without an alpha.
    public let scale: Double
    /// ‖scale · B · A‖
    public let norm: Double
  }

  /// As it was given.
  public let path: String
  /// `llama`, `gpt2`: `general.architecture`.
  public let architecture: String?
  /// `adapter.lora.alpha`; 0 where there is none.
  public let alpha: Double
  /// In the file's order.
  public private(set) var modules: [Module] = []
  /// Numbers of all factors.
  public private(set) var parameters = 0
  /// Bytes of the file.
  public let bytes: Int

  /// Whether `path` is a GGUF file that says it is an adapter.
  public static func isOne(_ path: String) -> Bool {
    guard PathKind(path) == .file, let file = try? InputFile(path), file.size >= 4,
      (try? file.bytes(at: 0, count: 4)) == GgufFile.magic, let gguf = try? GgufFile(path)
    else { return false }
    return gguf.text("general.type") == "adapter"
  }

  /// - Throws: `.badInput` for what is malformed, `.quality` for factors that are not finite
  public init(_ path: String) throws {
    let file = try GgufFile(path)
    func fail(_ reason: String) -> NibbleError { .badInput("\(path): \(reason)") }
    guard file.text("adapter.type") == "lora" else {
      throw fail("adapter.type = \(quoted(file.text("adapter.type") ?? "none")) is not read; lora is")
    }
    (self.path, architecture, bytes) = (path, file.text("general.architecture"), file.file.size)
    alpha = file.number("adapter.lora.alpha") ?? 0
    guard alpha.isFinite else { throw fail("adapter.lora.alpha is no finite number") }
    let tensors = Dictionary(file.tensors.map { (ByteName($0.name), $0) }) { first, _ in first }
    for a in file.tensors where a.name.hasSuffix(".weight.lora_a") {
      try Interrupt.check()
      let name = String(a.name.dropLast(".weight.lora_a".count))
      guard let b = tensors[ByteName(name + ".weight.lora_b")] else { throw fail("tensor \(quoted(a.name)) has no lora_b") }
      let isEmbedding = name == "token_embd"
      guard a.shape.count == 2, b.shape.count == 2, a.shape[isEmbedding ? 1 : 0] == b.shape[1], b.shape[1] > 0 else {
        throw fail("module \(quoted(name)) has factors of shapes \(a.shape) and \(b.shape)")
      }
      let (inputs, rank, outputs) = (a.shape[isEmbedding ? 0 : 1], b.shape[1], b.shape[0])
      let (first, second) = (try file.floats(a), try file.floats(b))
      guard first.allSatisfy(\.isFinite), second.allSatisfy(\.isFinite) else {
        throw NibbleError.quality("\(path): the factors of \(quoted(name)) hold NaN or infinite values")
      }
      let factors = LowRankFactors(
        a: isEmbedding ? transposed(first, rows: inputs, columns: rank) : first, b: second, rank: rank,
        scale: alpha == 0 ? 1 : alpha / Double(rank))
      modules.append(
        Module(
          name: name, inputs: inputs, outputs: outputs, rank: rank, scale: factors.scale,
          norm: LowRankFactors.squaredNorm([factors]).squareRoot()))
      parameters += first.count + second.count
    }
    guard !modules.isEmpty else { throw fail("it holds no factors") }
  }
}

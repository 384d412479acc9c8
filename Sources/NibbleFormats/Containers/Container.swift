import NibbleCore
import NibbleQuant

/// A container that checkpoints are written into: what it holds and what it refuses, how large it will be, and its writer.
///
/// A new container is a folder here and one line in `OutputFormat.allCases`; nothing else asks which one is written.
protocol Container: Sendable {
  /// The value of `--format`.
  var name: String { get }
  /// Endings of output names that ask for it.
  var endings: [String] { get }
  /// Whether it is one file, whatever it is called.
  var isAlwaysOneFile: Bool { get }
  /// Whether it holds codes.
  var holdsCodes: Bool { get }
  /// Whether it can compress its sections.
  var compresses: Bool { get }
  /// Whether `settle` chooses what tensors are stored as, by options of its own.
  var choosesTypes: Bool { get }

  /// How int4 is packed into it where nothing else is asked for; nil where it is packed as anywhere.
  var scheme: PackingScheme? { get }
  /// What a tensor becomes that rounding would rob of its change, if 8 bits are to keep it.
  var promoted: WeightEncoding { get }
  /// Makes a tensor plain that rounding would rob of its change, in 16 bits.
  func makePlain(_ item: inout StreamJob.Item)
  /// The type of scales of groups of a tensor of this type.
  func groupScale(of dtype: DType) -> DType
  /// Makes a job's tensors what the container stores, where that is not for the verb to say.
  func settle(_ job: inout StreamJob) throws
  /// What decides the bytes of the output beside the tensors and what else a job says.
  func ingredients(_ job: StreamJob) -> String
  /// Refuses by name what the container cannot hold, before anything is written.
  func check(_ job: StreamJob) throws
  /// What is packed by default, without what programs that read the container would not load packed.
  func loadable(_ decisions: [PackingDecision], of source: Checkpoint) -> [PackingDecision]
  /// What programs that read the container will not do with the output of a job.
  func warnings(_ job: StreamJob) -> [Warning]
  /// Whether a tensor stored as `encoding` has a place beside others.
  func takes(_ encoding: WeightEncoding, beside others: [WeightEncoding]) -> Bool
  /// What tells the tensors that programs compute in one product with this one, which must share its scheme; nil where it stands alone.
  func bond(_ tensor: String) -> String?
  /// The job as the container lays it out: with its tensors in the order of their names, unless parts of one are written one after another.
  func arranged(_ job: StreamJob) -> StreamJob
  /// The tensors of a job in the order in which they are written: by name, unless tensors of the file are made of several.
  func ordered(_ items: [StreamJob.Item]) -> [StreamJob.Item]
  /// The tensor of the file that this one is a part of: parts of one are stored alike; nil where it stands alone.
  func stack(_ tensor: ByteName) -> String?
  /// What the output of a job will take.
  func size(_ job: StreamJob, _ provenance: JSON?) -> OutputSize
  /// Bytes that wait in memory because the window of the output they belong to is not full.
  func openBytes(_ job: StreamJob) -> Int
  /// What takes the tensors of a job.
  ///
  /// - Parameters:
  ///   - provenance: of the length it will have in the end
  ///   - size: bytes that are expected
  func writer(_ job: StreamJob, _ staged: StagedOutput, _ provenance: JSON?, size: Int) throws -> any CheckpointWriter
}

extension Container {
  var isAlwaysOneFile: Bool { false }
  var compresses: Bool { false }
  var choosesTypes: Bool { false }
  var scheme: PackingScheme? { nil }
  var promoted: WeightEncoding { .int8 }
  func makePlain(_ item: inout StreamJob.Item) { item.target.becomesPlain() }
  func groupScale(of dtype: DType) -> DType { dtype == .bf16 ? .bf16 : .f16 }
  func loadable(_ decisions: [PackingDecision], of source: Checkpoint) -> [PackingDecision] { decisions }
  func warnings(_ job: StreamJob) -> [Warning] { [] }
  func bond(_ tensor: String) -> String? { nil }
  func arranged(_ job: StreamJob) -> StreamJob { job }
  func ordered(_ items: [StreamJob.Item]) -> [StreamJob.Item] { items }
  func stack(_ tensor: ByteName) -> String? { nil }
  func settle(_ job: inout StreamJob) throws {}
  func ingredients(_ job: StreamJob) -> String { "" }
}

/// Bytes of all files of an output.
struct OutputSize {
  var bytes: Int
  /// Whether that is exact, or the most it can be.
  var isExact: Bool
}

/// The containers verbs write: a static list.
public struct OutputFormat: Sendable, Hashable, RawRepresentable, CaseIterable, CustomStringConvertible {
  let container: any Container

  /// One block file.
  public static let nbl = OutputFormat(container: BlockFile())
  /// safetensors with packed tensors in bitsandbytes' layout.
  public static let bnb = OutputFormat(container: BitsAndBytesFolder())
  /// safetensors with packed tensors in compressed-tensors' layout.
  public static let compressedTensors = OutputFormat(container: CompressedTensorsFolder())
  /// A folder with packed tensors in GPTQ's layout.
  public static let gptq = OutputFormat(container: GPTQFolder())
  /// A folder with packed tensors in MLX's layout.
  public static let mlx = OutputFormat(container: MLXFolder())
  /// A folder with weights for ONNX Runtime's `MatMulBnb4`.
  public static let onnx = OutputFormat(container: OnnxFolder())
  /// Models as llama.cpp has them.
  public static let gguf = OutputFormat(container: GgufModel())
  /// safetensors of plain tensors.
  public static let safetensors = OutputFormat(container: PlainSafetensors())

  /// Every container this program writes.
  public static let allCases: [OutputFormat] = [.nbl, .bnb, .compressedTensors, .gptq, .mlx, .onnx, .gguf, .safetensors]

  init(container: any Container) { self.container = container }

  /// The container of a name.
  public init?(rawValue: String) {
    guard let known = Self.allCases.first(where: { $0.rawValue == rawValue }) else { return nil }
    self = known
  }

  /// The value of `--format`.
  public var rawValue: String { container.name }
  public var description: String { rawValue }
  /// Whether it holds codes.
  public var holdsCodes: Bool { container.holdsCodes }
  /// Whether it can compress its sections.
  public var compresses: Bool { container.compresses }
  /// Whether it chooses what tensors are stored as, by options of its own.
  public var choosesTypes: Bool { container.choosesTypes }
  /// How int4 is packed into it where nothing else is asked for; nil where it has no scheme of its own.
  public var scheme: PackingScheme? { container.scheme }

  public static func == (a: OutputFormat, b: OutputFormat) -> Bool { a.rawValue == b.rawValue }
  public func hash(into hasher: inout Hasher) { hasher.combine(rawValue) }
}

extension Checkpoint {
  /// The container that holds this checkpoint as it is, to be written where nothing else is asked for.
  public var ownFormat: OutputFormat {
    switch container {
    case .nbl: .nbl
    case .gguf: .gguf
    case .folder, .safetensors: folderFormat
    }
  }

  /// Whether packed tensors of this checkpoint stay as they are in a container; blocks of a GGUF file may have to be packed anew.
  package func keepsCodes(in format: OutputFormat) -> Bool {
    packed.contains { !$0.encoding.kind.isForeign || format.container.takes($0.encoding, beside: []) }
  }

  /// The container of safetensors that holds what this checkpoint is made of.
  public var folderFormat: OutputFormat {
    let packed = packed.filter { !$0.encoding.kind.isForeign }
    if packed.isEmpty { return .safetensors }
    return layoutFormat ?? (packed.contains { $0.encoding.codec is Int4Groups } ? .compressedTensors : .bnb)
  }
}

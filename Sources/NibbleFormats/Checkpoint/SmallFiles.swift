import NibbleCore
import Synchronization

extension Checkpoint {
  /// A file that travels with the weights: as it lies somewhere, or made of what a container says in another form.
  public struct SmallFile: Sendable {
    /// Its name in the model folder.
    public let name: String
    private let content: Content

    private enum Content {
      case stored(StoredSection)
      case made(MadeFile)
    }

    package init(name: String, section: StoredSection) { (self.name, content) = (name, .stored(section)) }

    /// A file that is made when it is first asked for.
    init(name: String, making make: @escaping @Sendable () throws -> [UInt8]) { (self.name, content) = (name, .made(MadeFile(make))) }

    /// Its bytes.
    ///
    /// - Throws: what making it throws
    package var section: StoredSection {
      get throws {
        switch content {
        case .stored(let section): section
        case .made(let file): try file.section
        }
      }
    }

    /// How many these are; 0 for a file that cannot be made; reading its bytes says why.
    package var length: Int { (try? section)?.plainLength ?? 0 }

    /// The same, without making a file for it: nil for one that is made of something else.
    public var knownLength: Int? { if case .stored(let section) = content { section.plainLength } else { nil } }

    /// The file it lies in, if it lies in one.
    var inputFile: InputFile? {
      if case .stored(let section) = content, case .file(let file, _) = section.source { file } else { nil }
    }
  }

  private final class MadeFile: Sendable {
    private let make: @Sendable () throws -> [UInt8]
    private let made = Mutex<Result<StoredSection, any Error>?>(nil)

    init(_ make: @escaping @Sendable () throws -> [UInt8]) { self.make = make }

    var section: StoredSection {
      get throws {
        try made.withLock { known in
          let result = known ?? Result { StoredSection(.file, bytes: try make()) }
          known = result
          return try result.get()
        }
      }
    }
  }

  /// Whether `path` names a file that has a model's small files inside: a block file or a GGUF file.
  public static func isOneFile(_ path: String) -> Bool {
    PathKind(path) == .file && [".nbl", ".gguf"].contains { path.lowercased().hasSuffix($0) }
  }

  /// The bytes of the small files that have one of these names, or lie in one of these folders (`folder/`), checked against their checksums.
  ///
  /// - Throws: `.badInput`, `.integrity`
  public func contents(ofSmallFiles names: [String], limit: Int = 1 << 28) throws -> [String: [UInt8]] {
    if let lost = unreadable.first(where: { names.contains($0.name) }) { throw lost.reason }
    var contents: [String: [UInt8]] = [:]
    // A name that ends with a slash means all files of that folder.
    let folders = names.filter { $0.hasSuffix("/") }
    for file in smallFiles where names.contains(file.name) || folders.contains(where: file.name.hasPrefix) {
      contents[file.name] = try SectionReader(file.section, file.name).readWhole(limit: limit)
    }
    return contents
  }
}

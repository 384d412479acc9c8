import NibbleCore

/// The published model that a checkpoint holds, by its name on Hugging Face's hub.
///
/// It names content that did not change since: quantizing and converting keep it, merging and training drop it. Specified in
/// `formats/nbl/README.md`.
public struct ModelOrigin: Sendable, Equatable {
  /// `org/name`, or whatever `from_pretrained` takes.
  public let name: String
  /// A commit, branch or tag.
  public let revision: String?

  /// - Throws: `.usage` for a name that is empty, longer than 1000 bytes, or holds control characters
  public init(name: String, revision: String? = nil) throws {
    for text in [name, revision].compactMap({ $0 }) {
      guard !text.isEmpty, text.utf8.count <= 1000, oneLine(text) == text else {
        throw NibbleError.usage("\(.baseName): \(quoted(text)) is no name of a model")
      }
    }
    (self.name, self.revision) = (name, revision)
  }

  /// Reads `NAME`, or `ORG/NAME@REVISION`.
  ///
  /// - Throws: `.usage` for what is no name
  public init(_ text: String) throws {
    let halves = text.split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
    let hasRevision = halves.count == 2 && HubCache.isRepository(text)
    try self.init(name: hasRevision ? halves[0] : text, revision: hasRevision ? halves[1] : nil)
  }

  /// The model whose snapshot in Hugging Face's cache `folder` is: `…/models--ORG--NAME/snapshots/COMMIT`.
  init?(snapshot folder: String) {
    let parts = folder.withoutTrailingSlashes.split(separator: "/").suffix(3).map(String.init)
    guard parts.count == 3, parts[1] == "snapshots", parts[0].hasPrefix("models--") else { return nil }
    let name = String(parts[0].dropFirst("models--".count)).replacing("--", with: "/")
    guard Self.isPublished(name), let origin = try? ModelOrigin(name: name, revision: parts[2]) else { return nil }
    self = origin
  }

  /// The model that `_name_or_path` of a configuration names, if that is not a path.
  init?(config: JSON?) {
    guard let name = config?["_name_or_path"]?.string, Self.isPublished(name), let origin = try? ModelOrigin(name: name) else {
      return nil
    }
    self = origin
  }

  /// Whether `name` reads as the hub's names do: `NAME` or `ORG/NAME`.
  public static func isPublished(_ name: String) -> Bool {
    let parts = name.split(separator: "/", omittingEmptySubsequences: false)
    return (1...2).contains(parts.count)
      && parts.allSatisfy { part in
        (1...96).contains(part.utf8.count) && !part.hasPrefix(".") && !part.hasPrefix("-")
          && part.utf8.allSatisfy { byte in
            byte < 0x80 && (Character(Unicode.Scalar(byte)).isLetter || Character(Unicode.Scalar(byte)).isNumber || "-_.".utf8.contains(byte))
          }
      }
  }

  var json: JSON {
    let named: JSON = ["name": JSON(name)]
    return revision.map { named.setting("revision", to: JSON($0)) } ?? named
  }

  /// - Returns: nil for what is no such object
  init?(json: JSON) {
    guard let name = json["name"]?.string else { return nil }
    let revision = json["revision"]
    guard revision == nil || revision?.string != nil, let origin = try? ModelOrigin(name: name, revision: revision?.string) else {
      return nil
    }
    self = origin
  }
}

extension Checkpoint {
  /// What an adapter's configuration calls this model, so that PEFT finds it: the published model it holds, or the folder it is.
  public var nameForAdapters: (name: String, revision: String?) {
    // transformers opens a folder itself; a block file it does not.
    if container == .folder, !isSnapshot { return (path, nil) }
    return origin.map { ($0.name, $0.revision) } ?? (path, nil)
  }

  /// That PEFT will not find this model by the name adapters get, where that is so.
  public var nameWarnings: [Warning] {
    guard container != .folder, origin == nil else { return [] }
    return [
      Warning(
        .compatibility,
        "\(path: path) does not name the model it was made from, so PEFT will not find the adapter's base; \(.baseName, "ORG/NAME") names it")
    ]
  }
}

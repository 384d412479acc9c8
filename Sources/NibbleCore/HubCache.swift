import Glibc

/// Models that Hugging Face's own tools have downloaded. Read only, and never the network.
package enum HubCache {
  /// Whether `text` reads as `ORG/NAME[@REVISION]`.
  package static func isRepository(_ text: String) -> Bool { split(text) != nil }

  /// Whether a byte may stand in a repository's name or a commit's id.
  private static func isPlain(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
      UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
      true
    default: false
    }
  }

  private static func split(_ text: String) -> (organisation: String, name: String, revision: String)? {
    let halves = text.split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false)
    let names = halves[0].split(separator: "/", omittingEmptySubsequences: false)
    guard names.count == 2, names.allSatisfy({ !$0.isEmpty && !$0.hasPrefix(".") && $0.utf8.allSatisfy(isPlain) }) else {
      return nil
    }
    // A branch may be called nearly anything and lie in folders, but lead nowhere else.
    let revision = halves.count == 2 ? halves[1] : "main"
    let isInside = revision.split(separator: "/", omittingEmptySubsequences: false).allSatisfy { part in
      !part.isEmpty && !part.hasPrefix(".") && part.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7F }
    }
    return isInside ? (String(names[0]), String(names[1]), String(revision)) : nil
  }

  /// The folder of the snapshot that `text` names, or nil if there is none.
  ///
  /// - Throws: `.badInput` where the cache holds the model, but not this revision
  package static func snapshot(_ text: String) throws -> String? {
    guard let (organisation, name, revision) = split(text) else { return nil }
    let folder = root + "/models--\(organisation)--\(name)"
    guard PathKind(folder) == .folder else { return nil }
    let commit = try commit(of: revision, in: folder)
    let snapshot = folder + "/snapshots/" + commit
    guard !commit.contains("/"), !commit.hasPrefix("."), PathKind(snapshot) == .folder else {
      throw NibbleError.badInput("\(text): the Hugging Face cache holds this model, but no revision \(subject: revision)")
    }
    return snapshot
  }

  /// What a branch or a tag stands for, or a commit's own id, of which seven digits are enough where they name one commit.
  private static func commit(of revision: String, in folder: String) throws -> String {
    let reference = folder + "/refs/" + revision
    if PathKind(reference) == .file {
      let file = try InputFile(reference)
      var bytes = try file.bytes(at: 0, count: min(file.size, 200))[...]
      while let last = bytes.last, last <= 0x20 { bytes.removeLast() }
      guard !bytes.isEmpty, bytes.allSatisfy(isPlain) else {
        throw NibbleError.badInput("\(path: reference): holds no commit's id")
      }
      return String(decoding: bytes, as: UTF8.self)
    }
    let snapshots = folder + "/snapshots"
    guard revision.utf8.count >= 7, PathKind(snapshots) == .folder else { return revision }
    let commits = try namesInFolder(snapshots).filter { $0.utf8.starts(with: revision.utf8) }
    return commits.count == 1 ? commits[0] : revision
  }

  /// Where the cache is, without the path of anyone's home.
  package struct Place {
    /// The variable or the default that it comes from.
    package let name: String
    package let path: String
    package var exists: Bool { PathKind(path) == .folder }
    /// How many models it holds.
    package var models: Int { ((try? namesInFolder(path)) ?? []).filter { $0.hasPrefix("models--") }.count }
  }

  package static var place: Place {
    let variables = [("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "/hub"), ("XDG_CACHE_HOME", "/huggingface/hub")]
    let found = variables.first { getenv($0.0).map { $0.pointee != 0 } ?? false }
    return Place(name: found.map { "$\($0.0)\($0.1)" } ?? "~/.cache/huggingface/hub", path: root)
  }

  private static var root: String {
    func variable(_ name: String) -> String? {
      guard let value = getenv(name), value.pointee != 0 else { return nil }
      let path = String(cString: value)
      return path.hasPrefix("~/") ? (variable("HOME") ?? "") + path.dropFirst() : path
    }
    if let cache = variable("HF_HUB_CACHE") ?? variable("HUGGINGFACE_HUB_CACHE") { return cache }
    if let home = variable("HF_HOME") { return home + "/hub" }
    return (variable("XDG_CACHE_HOME") ?? (variable("HOME") ?? "") + "/.cache") + "/huggingface/hub"
  }
}

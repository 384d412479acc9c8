import Glibc
import NibbleCore

/// Models that Hugging Face's own tools have downloaded. Read only, and never the network.
enum HubCache {
  /// Whether `text` reads as `ORG/NAME[@REVISION]`.
  static func isRepository(_ text: String) -> Bool { split(text) != nil }

  private static func split(_ text: String) -> (organisation: String, name: String, revision: String)? {
    let halves = text.split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false)
    let names = halves[0].split(separator: "/", omittingEmptySubsequences: false)
    func isPlain(_ part: Substring) -> Bool {
      !part.isEmpty && !part.hasPrefix(".")
        && part.utf8.allSatisfy {
          switch $0 {
          case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
            true
          default: false
          }
        }
    }
    guard names.count == 2, names.allSatisfy(isPlain) else { return nil }
    let revision = halves.count == 2 ? halves[1] : "main"
    guard revision.split(separator: "/", omittingEmptySubsequences: false).allSatisfy(isPlain) else { return nil }
    return (String(names[0]), String(names[1]), String(revision))
  }

  /// The folder of the snapshot that `text` names, or nil if there is none.
  static func snapshot(_ text: String) throws -> String? {
    guard let (organisation, name, revision) = split(text) else { return nil }
    let folder = root + "/models--\(organisation)--\(name)"
    guard PathKind(folder) == .folder else { return nil }
    var commit = revision
    let reference = folder + "/refs/" + revision
    if PathKind(reference) == .file {
      let file = try InputFile(reference)
      guard file.size <= 200 else { throw NibbleError.badInput("\(reference): no commit id") }
      commit = String(decoding: try file.bytes(at: 0, count: file.size), as: UTF8.self)
      while let last = commit.last, last.isWhitespace { commit.removeLast() }
    }
    let snapshot = folder + "/snapshots/" + commit
    guard !commit.contains("/"), !commit.hasPrefix("."), PathKind(snapshot) == .folder else {
      throw NibbleError.badInput("\(text): the Hugging Face cache holds this model, but no revision \(quoted(revision))")
    }
    return snapshot
  }

  private static var root: String {
    func variable(_ name: String) -> String? {
      guard let value = getenv(name), value.pointee != 0 else { return nil }
      return String(cString: value)
    }
    if let cache = variable("HF_HUB_CACHE") ?? variable("HUGGINGFACE_HUB_CACHE") { return cache }
    if let home = variable("HF_HOME") { return home + "/hub" }
    return (variable("XDG_CACHE_HOME") ?? (variable("HOME") ?? "") + "/.cache") + "/huggingface/hub"
  }
}

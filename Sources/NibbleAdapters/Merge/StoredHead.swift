import NibbleCore
import NibbleFormats

/// Configurations may tie the output head to the embedding and files hold a weight for both, or the shared one under the head's
/// name only.
extension Checkpoint {
  /// The place of a head that trained rows of the embedding `name` are for, too: PEFT trains them for both where the configuration
  /// ties them, whether or not the file has a weight for each.
  func headFollowing(_ name: ByteName) -> Int? {
    guard let head = tiedHeadName.flatMap({ tensor(called: $0.text) })?.name, name != head, vocabularyTensors.contains(name) else { return nil }
    return tensors.firstIndex { $0.name == head }
  }

  /// Throws for an adapter that changes a head under whose name the embedding is stored, too.
  func checkHead(_ adapter: AdapterFile) throws {
    guard let head = tiedHeadName, let stored = tensor(called: head.text), vocabularyTensors == [stored.name] else { return }
    let module = String(head.text.dropLast(".weight".count))
    guard adapter.modules.contains(where: { $0.path == module }) || adapter.replacements.contains(where: { $0.name == head.text })
    else { return }
    throw NibbleError(
      .adapterMismatch,
      "\(path: adapter.path): adapts only \(subject: module), and \(path) stores the weight it shares with the embedding under that name; "
        + "store it under the embedding's")
  }
}

import Glibc
import NibbleCore
import NibbleFormats

extension TrainingFolder {
  /// Writes the whole model into the folder, beside the files of the run, so that the folder can be opened as a model.
  ///
  /// The model is first written and synced in a folder of its own. Its files are then moved, `config.json` last, after that of an earlier
  /// model was removed: a folder that a kill leaves half-way has no `config.json`, and is refused as a model until the run is resumed.
  package func write(_ trained: Trained, of base: Checkpoint) throws {
    let finished = path + "/model.nibble-partial"
    var spec = try OutputSpec(path: finished, format: .safetensors, default: .safetensors)
    spec.force = true
    _ = try trained.model(of: base, to: spec).run()
    let last = "config.json"
    let new = try namesInFolder(finished).sorted { ($0 == last ? 1 : 0, $0) < ($1 == last ? 1 : 0, $1) }
    let old = try namesInFolder(path).filter { ModelFileNames.isOurs($0) && (!new.contains($0) || $0 == last) }
    if old.contains(last) {
      try Self.remove(path + "/" + last)
      try syncFolder()
    }
    for name in old { try Self.remove(path + "/" + name) }
    for name in new {
      // All else is on the disk before the configuration makes it a model.
      if name == last { try syncFolder() }
      guard rename(finished + "/" + name, path + "/" + name) == 0 else {
        throw NibbleError.cannotWrite("\(path: path + "/" + name): \(errorText(errno))")
      }
    }
    rmdir(finished)
    try syncFolder()
  }
}

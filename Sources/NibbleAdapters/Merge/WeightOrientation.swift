import NibbleCore
import NibbleFormats

/// GPT-2's linear layers are `Conv1D`, which stores [inputs, outputs]; all others store [outputs, inputs]. Of a square weight the shape
/// does not tell, and `fan_in_fan_out` in an adapter's configuration tells only what PEFT set for the last module it wrapped.
enum WeightOrientation {
  /// The last part of the names that Conv1D layers have in GPT-2 and all that derives from it.
  private static let names: Set<String> = ["c_attn", "q_attn", "c_fc", "c_proj"]

  static func mayBeConv1D(_ name: String) -> Bool {
    let parts = name.split(separator: ".")
    return parts.count > 2 && parts.last == "weight" && names.contains(String(parts[parts.count - 2]))
  }

  /// Whether a square weight of that name and `width` is stored [inputs, outputs], as far as its siblings that are not square show it:
  /// each has the width of the states on one side, the inner width on the other. Nil where they show nothing, or disagree.
  static func ofSquare(_ name: String, width: Int, in checkpoint: Checkpoint) -> Bool? {
    guard mayBeConv1D(name) else { return nil }
    var found: Set<Bool> = []
    for tensor in checkpoint.tensors where mayBeConv1D(tensor.name.text) && tensor.shape.count == 2 {
      let shape = tensor.logicalShape
      guard shape[0] != shape[1], shape.contains(width) else { continue }
      let takesStates = !tensor.name.text.hasSuffix(".c_proj.weight")
      found.insert((shape[0] == width) == takesStates)
    }
    return found.count == 1 ? found.first : nil
  }
}

extension Checkpoint {
  /// Whether the weight of an adapted layer is stored [inputs, outputs].
  ///
  /// - Throws: `.adapterMismatch` where nothing says
  func storesInputsFirst(_ tensor: StoredTensor, _ module: AdapterFile.AdaptedModule, of file: AdapterFile) throws -> Bool {
    let name = tensor.name.text
    if let family { return family.isConv1D(name) }
    let shape = tensor.logicalShape
    guard shape.count == 2, shape[0] == shape[1] else {
      // What the adapter does not show of the shape, it may have any way.
      return module.shape.fits(inputs: shape.first ?? 0, outputs: shape.last ?? 0)
        && !module.shape.fits(inputs: shape.last ?? 0, outputs: shape.first ?? 0)
    }
    let says = file.config.json["fan_in_fan_out"]?.bool ?? false
    guard WeightOrientation.mayBeConv1D(name) else { return says }
    if let shown = WeightOrientation.ofSquare(name, width: shape[0], in: self) { return shown }
    // PEFT sets it for a Conv1D only, so it may be false for one, but not true for none.
    guard says else {
      throw file.mismatch(
        module.path,
        "is square, and neither a config.json nor its siblings in \(path) show whether it is stored [inputs, outputs]; give the base as a "
          + "folder with its config.json")
    }
    return true
  }
}

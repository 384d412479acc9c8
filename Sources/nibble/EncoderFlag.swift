import ArgumentParser
import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

/// The encoders of the command line.
enum EncoderFlag: String, ExpressibleByArgument, CaseIterable {
  case absmax, mse
  case mseSigned = "mse-signed"
  case calibrated, gptq, auto, icq, imatrix

  /// Whether a text decides the codes.
  var readsText: Bool { [.calibrated, .gptq, .auto, .imatrix].contains(self) }

  /// How scales are chosen.
  var search: StreamJob.Encoder { readsText ? .mseSigned : StreamJob.Encoder(rawValue: rawValue) ?? .absmax }

  /// The codecs whose codes are chosen from a text.
  static var codecNames: String {
    let names = Codecs.packing.filter(\.searchesScales).map(\.name)
    return names.dropLast().joined(separator: ", ") + " and " + (names.last ?? "")
  }

  /// How codes are chosen from a text; nil if none is read.
  ///
  /// - Parameters:
  ///   - kinds: codecs that tensors of `source` get
  ///   - text: what is given of one
  /// - Throws: `.usage` where nothing is packed that the encoder chooses codes of
  func ofText(_ source: Checkpoint, _ kinds: [CodecKind], _ text: TextOptions) throws -> CalibrationOptions.Encoder? {
    switch self {
    case .absmax, .mse, .mseSigned, .icq: return nil
    case .imatrix: throw NibbleError.usage("--encoder imatrix is for the blocks of GGUF files; calibrated does more for other codecs")
    case .calibrated:
      guard kinds.contains(where: \.searchesScales) else {
        throw NibbleError.usage(
          "--encoder calibrated chooses codes of \(Self.codecNames), and \(source.path) is packed into none of them")
      }
      return .calibrated
    case .gptq:
      guard kinds.contains(where: \.hasGroups) else {
        throw NibbleError.usage("--encoder gptq chooses codes of int4, and nothing is packed into it; nf4 and fp4 take calibrated")
      }
      return .gptq
    case .auto:
      guard kinds.contains(where: \.searchesScales), text.statistics != nil || source.canBeCalibrated(hasText: text.isGiven) else { return nil }
      return .calibrated
    }
  }
}

extension Checkpoint {
  /// Whether it runs here and has a text to be calibrated with, its own or one that is given.
  fileprivate func canBeCalibrated(hasText: Bool) -> Bool {
    guard let type = modelType, family?.runs(type) == true, let model = try? Model(self, precision: .f32, team: Team(threads: 1)),
      model.canBeCalibrated
    else { return false }
    return hasText || model.writesText && (try? ModelTokenizer(model, path: nil)) != nil
  }
}

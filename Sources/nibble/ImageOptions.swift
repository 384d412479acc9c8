import ArgumentParser
import NibbleCore
import NibbleModels
import NibbleTraining

/// Flags of training on images.
struct ImageOptions: ParsableArguments {
  @Flag(help: "Images: mirror half of them, drawn anew each time.") var randomFlip = false
  @Option(help: ArgumentHelp("Images: surround them with so many black pixels and take a part of their size at random, as torchvision's RandomCrop does; 0 for none.", valueName: "PIXELS"))
  var randomCrop = 0

  static let flags = ["--random-flip", "--random-crop"]

  func validate() throws {
    guard (0...1024).contains(randomCrop) else { throw ValidationError("--random-crop must be from 0 to 1024") }
  }

  var augmentation: ImageAugmentation {
    var augmentation = ImageAugmentation()
    (augmentation.flips, augmentation.padding) = (randomFlip, randomCrop)
    return augmentation
  }

  var yaml: [(String, JSON?)] { [("random_flip", .bool(randomFlip)), ("random_crop", randomCrop == 0 ? nil : JSON(randomCrop))] }
}

extension FinetuneCommand {
  /// Images to train on, and those to validate on.
  func images(for model: Model) throws -> (train: TrainingRows.Data, held: TrainingRows.Data?, black: [Float]) {
    func read(_ path: String) throws -> (TrainingRows.Data, ImageRows) {
      let rows = try ImageRows(model, path)
      common.warn(rows.warnings)
      var data = TrainingRows.Data(path: path)
      data.rows = try rows.all(progress: common.progress("images", unit: "images"))
      Progress.clear()
      return (data, rows)
    }
    let (train, rows) = try read(try imageData(["train.jsonl", "train.bin", "train"]) ?? data)
    let held = try (valid ?? imageData(["valid.jsonl", "valid.bin", "valid", "val"])).map { try read($0).0 }
    return (train, held, rows.preparation.black)
  }

  /// The first of these that lies in the folder of data.
  private func imageData(_ names: [String]) throws -> String? {
    guard PathKind(data) == .folder else { return nil }
    let there = try namesInFolder(data)
    return names.first(where: there.contains).map { data + "/" + $0 }
  }

  /// Flags without effect on images.
  func warnIgnoredOfImages(_ model: Model) {
    guard model.takesImages else { return common.warnIgnored(ImageOptions.flags, "the model takes no images") }
    common.warnIgnored(
      [
        "--max-length", "--train-on-prompt", "--template", "--train-on-turns", "--break-marks", "--group-by-length", "--mlm-probability", "--doc-stride",
      ], "the model takes images")
  }
}

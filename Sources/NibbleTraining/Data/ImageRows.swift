import NibbleCore
import NibbleImages
import NibbleModels

/// Images of a file or folder as a classifier of images takes them, each read when it is asked for.
public struct ImageRows: Sendable {
  /// How pictures become numbers.
  public let preparation: ImagePreparation
  public let classes: Classes
  /// Things to know about the data.
  public let warnings: [Warning]
  private let items: [ImageList.Item]
  private let targets: [Int]

  /// Lists what lies at `path`. Folders of classes are those that the model names; if it names none of them, they are its classes in the
  /// order of their names, as torchvision's `ImageFolder` has it.
  ///
  /// - Parameter limit: images at most, the first ones
  /// - Throws: `.usage` for models that are no classifiers of images with one class each, `.badInput` naming file and line
  public init(_ model: Model, _ path: String, limit: Int? = nil) throws {
    guard model.takesImages else { throw NibbleError.usage("\(path: model.path): images need a model that takes them; this one takes text") }
    guard let count = model.classCount, !model.hasManyLabels, !model.isRegression else {
      throw NibbleError.usage("\(path: model.path): images with a label each need a head of one class; this model has another, or none")
    }
    let name = "preprocessor_config.json"
    let type = model.config["model_type"]?.string ?? ""
    var warnings: [Warning] = []
    if let bytes = try model.checkpoint.contents(ofSmallFiles: [name], limit: 1 << 20)[name] {
      let place = "\(model.path): \(name)"
      guard let json = try? JSON.parse(bytes), json.members != nil else { throw NibbleError.badInput("\(path: place): not a JSON object") }
      preparation = try ImagePreparation(json, modelType: type, place: place)
    } else {
      preparation = ImagePreparation()
      warnings.append(
        Warning(.data, "\(path: model.path) has no \(name): images keep their sizes, and are normalized by ImageNet's mean and deviation"))
    }
    let list = try ImageList(path)
    if list.passedOver > 0 {
      warnings.append(Warning(.data, "\(path: path): \(list.passedOver) files are passed over, whose names do not end with .png, .jpg or .jpeg"))
    }
    let names = model.classNames, isOrdered = !list.folders.isEmpty && !list.folders.contains(where: names.contains)
    guard !isOrdered || list.folders.count <= count else {
      throw NibbleError.badInput("\(path: path): \(list.folders.count) folders for the model's \(count) classes")
    }
    let classes = Classes(count, names: isOrdered ? list.folders : names)
    items = limit.map { Array(list.items.prefix($0)) } ?? list.items
    targets = try items.map { item in
      guard let number = classes.number(item.label) else { throw NibbleError.badInput("\(path: item.place): \(classes.unknown(item.label))") }
      return number
    }
    self.classes = Classes(count, names: names.isEmpty && isOrdered && list.folders.count == count ? list.folders : names)
    self.warnings = warnings
  }

  public var count: Int { items.count }

  /// The class of an image.
  public func target(_ index: Int) -> Int { targets[index] }

  /// Where an image lies.
  public func place(_ index: Int) -> String { items[index].place }

  /// An image as the model takes it.
  ///
  /// - Throws: `.badInput` naming the file
  public func row(_ index: Int) throws -> TrainingRow {
    let item = items[index]
    let made = try preparation.numbers(item.picture(), place: item.place)
    return TrainingRow(
      try Image(channels: 3, height: made.height, width: made.width, made.values), targets: [Double(targets[index])], place: item.place)
  }

  /// All images.
  ///
  /// - Throws: `.badInput` naming the file; `.usage` where they take more than half of the machine's memory
  public func all(progress: (Int, Int) -> Void = { _, _ in }) throws -> [TrainingRow] {
    var rows: [TrainingRow] = []
    var bytes = 0
    for index in 0..<count {
      if index % 64 == 0 { try Interrupt.check() }
      let row = try row(index)
      bytes += 12 * row.input.length
      guard bytes <= Machine.memory / 2 else {
        throw NibbleError.usage(
          "\(path: row.place): the images up to here take \(byteText(bytes)), and training holds all of them; this machine has \(byteText(Machine.memory))")
      }
      rows.append(row)
      progress(index + 1, count)
    }
    return rows
  }
}

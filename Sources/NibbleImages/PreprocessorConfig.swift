import NibbleCore

extension ImagePreparation {
  /// What an image processor of transformers does where its configuration says nothing.
  private struct Processor {
    var size: Size
    var resampling: Resampling
    var crop: Int?
    /// The share of the resized picture that is cropped (`crop_pct`), of processors that have it.
    var share: Double?
    var mean: [Double]
    var deviation: [Double]

    static let half = [0.5, 0.5, 0.5]
    static let clip = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    static let imageNet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    static let known: [String: Processor] = [
      "ViT": Processor(size: .exactly(height: 224, width: 224), resampling: .bilinear, mean: half, deviation: half),
      "DeiT": Processor(size: .exactly(height: 256, width: 256), resampling: .bicubic, crop: 224, mean: half, deviation: half),
      "ConvNext": Processor(size: .shortestEdge(384), resampling: .bilinear, share: 224 / 256, mean: imageNet.0, deviation: imageNet.1),
      "Bit": Processor(size: .shortestEdge(224), resampling: .bicubic, crop: 224, mean: clip.0, deviation: clip.1),
      "CLIP": Processor(size: .shortestEdge(224), resampling: .bicubic, crop: 224, mean: clip.0, deviation: clip.1),
    ]
  }

  /// Edges that a picture may be resized or cropped to.
  private static let edges = 1...8192

  /// Reads `preprocessor_config.json` of transformers.
  ///
  /// - Parameter modelType: decides which processor it is where the file does not
  /// - Throws: `.badInput` for processors nibble has no code for, by name, and for values that are none
  package init(_ json: JSON, modelType: String, place: String) throws {
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: place): \(reason)") }
    func value(_ key: String) -> JSON? { json[key].flatMap { $0 == .null ? nil : $0 } }
    func flag(_ key: String, _ standard: Bool) throws -> Bool {
      guard let value = value(key) else { return standard }
      guard let flag = value.bool else { throw fail("\(key: key) is \(quoted(value.text())), expected true or false") }
      return flag
    }
    func edge(_ value: JSON, _ key: String) throws -> Int {
      guard let edge = value.int, Self.edges.contains(edge) else {
        throw fail("\(key: key) is \(quoted(value.text())), expected a whole number from 1 to \(Self.edges.upperBound)")
      }
      return edge
    }
    func three(_ key: String, _ standard: [Double], above: Double) throws -> [Double] {
      guard let value = value(key) else { return standard }
      let numbers = value.array?.compactMap(\.double) ?? []
      guard numbers.count == 3, numbers.allSatisfy({ $0.isFinite && $0 > above }) else {
        throw fail("\(key: key) is \(quoted(value.text())), expected three numbers")
      }
      return numbers
    }
    func size(_ key: String) throws -> Size? {
      guard let value = value(key) else { return nil }
      if let own = value["shortest_edge"] { return .shortestEdge(try edge(own, key)) }
      let (height, width) = (value["height"] ?? value, value["width"] ?? value)
      return .exactly(height: try edge(height, key), width: try edge(width, key))
    }
    let type = value("image_processor_type") ?? value("feature_extractor_type")
    let fallback = ["vit": "ViT", "deit": "DeiT"][modelType] ?? "ConvNext"
    var name = type.map { $0.string ?? $0.text() } ?? fallback
    for ending in ["Fast", "ImageProcessor", "FeatureExtractor", "ImageProcessorPil"] where name.hasSuffix(ending) { name.removeLast(ending.count) }
    guard let processor = Processor.known[name] else {
      throw fail(
        "\(key: "image_processor_type") \(quoted(name)) is not implemented; \(Processor.known.keys.sorted().joined(separator: ", ")) are")
    }
    self.init()
    let number = value("resample")?.int ?? processor.resampling.rawValue
    guard let resampling = Resampling(rawValue: number) else { throw fail("\(key: "resample") = \(number) is none of Pillow's filters, 0 to 5") }
    self.resampling = resampling
    if try flag("do_resize", true) { self.size = try size("size") ?? processor.size }
    var isCropped = try flag("do_center_crop", processor.crop != nil)
    if let share = processor.share, let wanted = self.size {
      // ConvNeXt's: an edge below 384 is the middle of a picture that was made somewhat larger; from 384 on all of it is pressed into a square.
      isCropped = false
      guard case .shortestEdge(let edge) = value("size")?.int.map({ Size.shortestEdge($0) }) ?? wanted else {
        throw fail("\(key: "size") of this processor is a shortest_edge")
      }
      let part = value("crop_pct")?.double ?? share
      guard part > 0, part <= 1, Double(edge) / part < Double(Self.edges.upperBound) else { throw fail("\(key: "crop_pct") = \(part) is no share") }
      self.size = edge < 384 ? .shortestEdge(Int(Double(edge) / part)) : .exactly(height: edge, width: edge)
      if edge < 384 { crop = (edge, edge) }
    }
    if isCropped {
      switch try size("crop_size") ?? processor.crop.map({ .exactly(height: $0, width: $0) }) {
      case .exactly(let height, let width)?: crop = (height, width)
      case .shortestEdge(let edge)?: crop = (edge, edge)
      case nil: throw fail("\(key: "crop_size") is missing")
      }
    }
    scale = 1
    if try flag("do_rescale", true) {
      scale = value("rescale_factor")?.double ?? 1 / 255
      guard scale > 0, scale.isFinite else { throw fail("\(key: "rescale_factor") is no number above 0") }
    }
    (mean, deviation) = ([0, 0, 0], [1, 1, 1])
    if try flag("do_normalize", true) {
      mean = try three("image_mean", processor.mean, above: -.infinity)
      deviation = try three("image_std", processor.deviation, above: 0)
    }
  }
}

import NibbleCore

/// A curve of losses as a picture.
public enum LossCurve {
  private static let (width, height, margin) = (720.0, 360.0, 44.0)

  /// - Parameters:
  ///   - losses: of each step
  ///   - validation: steps and the losses there
  public static func svg(_ losses: [Double], validation: [(step: Int, loss: Double)] = []) -> String {
    let all = losses + validation.map(\.loss)
    guard let least = all.min(), let most = all.max() else { return "" }
    let span = max(most - least, 1e-9), last = Double(max(losses.count - 1, 1))
    func x(_ step: Double) -> Double { margin + step / last * (width - 2 * margin) }
    func y(_ loss: Double) -> Double { height - margin - (loss - least) / span * (height - 2 * margin) }
    func line(_ points: [(Double, Double)], _ style: String) -> String {
      "<polyline fill=\"none\" \(style) points=\"\(points.map { "\(decimal($0.0, 1)),\(decimal($0.1, 1))" }.joined(separator: " "))\"/>"
    }
    var smooth = losses.first ?? 0
    let smoothed = losses.enumerated().map { index, loss -> (Double, Double) in
      smooth = 0.9 * smooth + 0.1 * loss
      return (x(Double(index)), y(smooth))
    }
    var parts = [
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 \(Int(width)) \(Int(height))\" font-family=\"sans-serif\" font-size=\"12\">",
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>",
      line(losses.enumerated().map { (x(Double($0)), y($1)) }, "stroke=\"#bbb\" stroke-width=\"1\""),
      line(smoothed, "stroke=\"#1f6fb2\" stroke-width=\"2\""),
    ]
    for point in validation {
      parts.append(
        "<circle cx=\"\(decimal(x(Double(point.step - 1)), 1))\" cy=\"\(decimal(y(point.loss), 1))\" r=\"4\" fill=\"#c0392b\"/>")
    }
    parts += [
      "<text x=\"4\" y=\"\(Int(margin))\">\(decimal(most, 3))</text>",
      "<text x=\"4\" y=\"\(Int(height - margin))\">\(decimal(least, 3))</text>",
      "<text x=\"\(Int(width / 2))\" y=\"\(Int(height - 12))\" text-anchor=\"middle\">step 1 to \(losses.count): loss, smoothed, validation (dots)</text>",
      "</svg>",
    ]
    return parts.joined(separator: "\n") + "\n"
  }
}

import NibbleCompute
import NibbleQuant
import TestSupport
import Testing

@Suite("Convolutions without windows")
struct ConvolutionTests {
  /// One image of a drawn size, and sums over its windows in float64.
  struct Case {
    var channels, outputs: Int
    var window: (height: Int, width: Int)
    var stride, padding: Int
    var size: (height: Int, width: Int)
    var windows: Windows {
      Windows(channels: channels, height: size.height, width: size.width, window: window, stride: stride, padding: padding)
    }

    init(_ seed: UInt64) {
      var chance = Generator(seed)
      func draw(_ range: ClosedRange<Int>) -> Int { range.lowerBound + Int(chance.next() % UInt64(range.count)) }
      (channels, outputs) = (draw(1...40), draw(1...40))
      window = (draw(1...4), draw(1...4))
      (stride, padding) = (draw(1...3), draw(0...2))
      size = (draw(window.height...window.height + 9), draw(window.width...window.width + 15))
    }

    /// Calls `body` with the places of a product: in x, the weights and the outputs.
    func forEach(_ body: (_ x: Int, _ weight: Int, _ out: Int) -> Void) {
      for line in 0..<windows.outHeight {
        for place in 0..<windows.outWidth {
          for i in 0..<window.height {
            for j in 0..<window.width {
              let (y, across) = (line * stride + i - padding, place * stride + j - padding)
              guard 0..<size.height ~= y, 0..<size.width ~= across else { continue }
              for c in 0..<channels {
                for o in 0..<outputs {
                  body(
                    (y * size.width + across) * channels + c, ((o * channels + c) * window.height + i) * window.width + j,
                    (line * windows.outWidth + place) * outputs + o)
                }
              }
            }
          }
        }
      }
    }
  }

  private static func numbers(_ count: Int, _ seed: UInt64) -> [Float] {
    var generator = Generator(seed)
    return (0..<count).map { _ in generator.normal() }
  }

  private static func expectClose(_ found: [Float], _ wanted: [Double], _ what: String, sourceLocation: SourceLocation = #_sourceLocation) {
    let worst = zip(found, wanted).reduce(0) { max($0, abs(Double($1.0) - $1.1) / max(1, abs($1.1))) }
    #expect(worst <= 2e-5 && found.count == wanted.count && found.allSatisfy(\.isFinite), "\(what): \(worst)", sourceLocation: sourceLocation)
  }

  @Test("give sums over windows, and both ways back", arguments: KernelVariant.allCases.filter(\.runs))
  func drawn(_ variant: KernelVariant) {
    for seed in 0..<60 as Range<UInt64> {
      let one = Case(seed), windows = one.windows, own = Convolution(windows, outputs: one.outputs, variant: variant)
      let count = one.size.height * one.size.width * one.channels, weights = one.outputs * windows.size, places = windows.count * one.outputs
      let (x, w, dy) = (Self.numbers(count, seed + 100), Self.numbers(weights, seed + 200), Self.numbers(places, seed + 300))
      var (sums, dx, dw) = ([Double](repeating: 0, count: places), [Double](repeating: 0, count: count), [Double](repeating: 0, count: weights))
      one.forEach { at, weight, out in
        sums[out] += Double(x[at]) * Double(w[weight])
        dx[at] += Double(dy[out]) * Double(w[weight])
        dw[weight] += 0.5 * Double(dy[out]) * Double(x[at])
      }
      func zeros(_ count: Int) -> [Float] { [Float](repeating: 0, count: count) }
      // What is packed, padded and written over is spoiled before.
      var (padded, packed, out) = ([Float](repeating: .nan, count: own.paddedCount), [Float](repeating: .nan, count: own.packedCount), zeros(places))
      own.pad(x, into: &padded)
      own.pack(w, into: &packed)
      let half = own.outHeight / 2
      out.withUnsafeMutableBufferPointer { buffer in
        guard let start = buffer.baseAddress else { return }
        own.apply(padded, packed, lines: 0..<half, to: start)
        own.apply(padded, packed, lines: half..<own.outHeight, to: start + half * own.lineCount)
      }
      Self.expectClose(out, sums, "forward of \(one)")
      var (back, given, cropped) = ([Float](repeating: .nan, count: own.packedBackCount), zeros(own.paddedCount), zeros(count))
      own.packBack(w, into: &back)
      own.give(dy, back, to: &given)
      own.crop(given, addingTo: &cropped)
      Self.expectClose(cropped, dx, "back of \(one)")
      var (gradient, unpacked) = (zeros(own.packedCount), zeros(weights))
      own.addGradient(padded, dy, to: &gradient)
      own.unpack(gradient, scale: 0.5, addingTo: &unpacked)
      Self.expectClose(unpacked, dw, "gradient of \(one)")
    }
  }
}

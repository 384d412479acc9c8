import CNibbleKernels
import Glibc

/// What sets one tensor apart from another.
public struct Difference: Sendable {
  /// Σ(b − a)², as all sums over elements that are finite on both sides.
  public var squaredDifference = 0.0
  /// Σa².
  public var squaredA = 0.0
  /// Σb².
  public var squaredB = 0.0
  /// The greatest |b − a|.
  public var maxDifference = 0.0
  /// The greatest |a|.
  public var maxA = 0.0
  /// Elements that differ; two NaNs do not.
  public var unequal = 0
  /// Elements with a NaN or an infinity on either side.
  public var nonfinite = 0

  public init() {}

  /// Adds `count` pairs.
  public mutating func add(_ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, count: Int) {
    var sums = nibble_difference_sums()
    nibble_difference(KernelVariant.current.native, a, b, count, &sums)
    squaredDifference += sums.squared_difference
    squaredA += sums.squared_a
    squaredB += sums.squared_b
    maxDifference = max(maxDifference, sums.max_difference)
    maxA = max(maxA, sums.max_a)
    unequal += Int(sums.unequal)
    nonfinite += Int(sums.nonfinite)
  }

  /// Adds `count` pairs of which the first is float64, unaligned and little-endian.
  package mutating func add(doubles a: UnsafeRawPointer, _ b: UnsafePointer<Float>, count: Int) {
    for index in 0..<count {
      let x = Double(bitPattern: UInt64(littleEndian: a.loadUnaligned(fromByteOffset: 8 * index, as: UInt64.self)))
      let y = Double(b[index])
      if x != y, !(x.isNaN && y.isNaN) { unequal += 1 }
      guard x.isFinite, y.isFinite else {
        nonfinite += 1
        continue
      }
      squaredDifference += (y - x) * (y - x)
      squaredA += x * x
      squaredB += y * y
      maxDifference = max(maxDifference, abs(y - x))
      maxA = max(maxA, abs(x))
    }
  }

  public static func += (a: inout Difference, b: Difference) {
    a.squaredDifference += b.squaredDifference
    a.squaredA += b.squaredA
    a.squaredB += b.squaredB
    a.maxDifference = max(a.maxDifference, b.maxDifference)
    a.maxA = max(a.maxA, b.maxA)
    a.unequal += b.unequal
    a.nonfinite += b.nonfinite
  }

  /// ‖b − a‖ / ‖a‖: 0 if equal, infinite if only a is zero.
  public var relativeRMS: Double {
    squaredDifference == 0 ? 0 : (squaredDifference / squaredA).squareRoot()
  }

  /// Signal to quantization noise in decibels: 20 log₁₀ of ‖a‖ / ‖b − a‖.
  public var sqnr: Double { squaredDifference == 0 ? .infinity : 10 * log10(squaredA / squaredDifference) }
}

/// What is in a tensor.
public struct TensorStatistics: Sendable {
  /// Elements seen.
  public var count = 0
  /// Σx over finite elements.
  public var sum = 0.0
  /// Σx² over finite elements.
  public var sumOfSquares = 0.0
  /// The least finite element.
  public var minimum = Float.infinity
  /// The greatest finite element.
  public var maximum = -Float.infinity
  /// Elements that are +0 or −0.
  public var zeros = 0
  /// Elements that are NaN.
  public var nans = 0
  /// Elements that are infinite.
  public var infinities = 0

  public init() {}

  /// Adds `count` values.
  public mutating func add(_ x: UnsafePointer<Float>, count: Int) {
    var sums = nibble_scan_sums(
      sum: 0, sum_of_squares: 0, min: .infinity, max: -.infinity, zeros: 0, nans: 0, infinities: 0)
    nibble_scan(KernelVariant.current.native, x, count, &sums)
    self.count += count
    sum += sums.sum
    sumOfSquares += sums.sum_of_squares
    minimum = min(minimum, sums.min)
    maximum = max(maximum, sums.max)
    zeros += Int(sums.zeros)
    nans += Int(sums.nans)
    infinities += Int(sums.infinities)
  }

  public static func += (a: inout TensorStatistics, b: TensorStatistics) {
    a.count += b.count
    a.sum += b.sum
    a.sumOfSquares += b.sumOfSquares
    a.minimum = min(a.minimum, b.minimum)
    a.maximum = max(a.maximum, b.maximum)
    a.zeros += b.zeros
    a.nans += b.nans
    a.infinities += b.infinities
  }

  /// Finite elements.
  public var finite: Int { count - nans - infinities }
  /// The mean of the finite elements.
  public var mean: Double { finite == 0 ? 0 : sum / Double(finite) }
  /// The standard deviation of the finite elements.
  public var standardDeviation: Double {
    finite == 0 ? 0 : max(0, sumOfSquares / Double(finite) - mean * mean).squareRoot()
  }
}

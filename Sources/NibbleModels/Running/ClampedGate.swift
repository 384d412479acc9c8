import NibbleCompute

/// The gate of gpt-oss's experts: (u + 1) · g · σ(slope · g), with g = min(gate, limit) and u = min(max(up, −limit), limit).
///
/// A row is gate 0, up 0, gate 1, up 1, … It is computed as silu(slope · g) · (u + 1) / slope.
package struct ClampedGate: Sendable {
  package var slope: Float
  package var limit: Float

  package init(slope: Float, limit: Float) { (self.slope, self.limit) = (slope, limit) }

  /// A row of `count` numbers from one of twice as many. `out` may be `up`.
  func activate(_ up: UnsafePointer<Float>, count: Int, _ out: UnsafeMutablePointer<Float>) {
    apart(up, count: count) { gates, ups in
      LayerKernels.activate(.silu, gate: gates, times: ups, count: count, gates)
      LayerKernels.scale(gates, by: 1 / slope, count: count)
      out.update(from: gates, count: count)
    }
  }

  /// From the gradient of what a row gave to that of what it took. Numbers beyond a limit have none.
  func activateBack(_ dy: UnsafePointer<Float>, _ up: UnsafePointer<Float>, count: Int, _ dUp: UnsafeMutablePointer<Float>) {
    apart(up, count: count) { gates, ups in
      LayerKernels.activateBack(.silu, dy, gate: gates, times: ups, count: count, dgate: gates, dup: ups)
      for index in 0..<count {
        dUp[2 * index] = up[2 * index] > limit ? 0 : gates[index]
        dUp[2 * index + 1] = abs(up[2 * index + 1]) > limit ? 0 : ups[index] / slope
      }
    }
  }

  /// Calls `body` with slope · g and u + 1 of a row. A NaN stays one.
  private func apart(
    _ up: UnsafePointer<Float>, count: Int, _ body: (UnsafeMutablePointer<Float>, UnsafeMutablePointer<Float>) -> Void
  ) {
    withUnsafeTemporaryAllocation(of: Float.self, capacity: 2 * count) { buffer in
      guard let gates = buffer.baseAddress else { return }
      for index in 0..<count {
        let (gate, own) = (up[2 * index], up[2 * index + 1])
        gates[index] = slope * (gate > limit ? limit : gate)
        gates[count + index] = (own > limit ? limit : own < -limit ? -limit : own) + 1
      }
      body(gates, gates + count)
    }
  }
}

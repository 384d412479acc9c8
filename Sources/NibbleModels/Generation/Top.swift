/// The `wanted` greatest of `count` scores, best first, the lower index first among equals.
func greatest(_ scores: UnsafePointer<Float>, count: Int, _ wanted: Int) -> [Int] {
  // Kept in order; almost every score is turned away by one comparison.
  var best: [Int] = []
  best.reserveCapacity(wanted + 1)
  var least = -Float.infinity
  for index in 0..<count where best.count < wanted || scores[index] > least {
    var place = best.count
    while place > 0, scores[best[place - 1]] < scores[index] { place -= 1 }
    best.insert(index, at: place)
    if best.count > wanted { best.removeLast() }
    if let last = best.last { least = scores[last] }
  }
  return best
}

import NibbleCompute
import Testing

@testable import NibbleModels

@Suite("Experts that rows take")
struct RoutingTests {
  private func routing(_ p: [Float], rows: Int, used: Int, addsUp: Bool = false) -> Routing {
    let linear = Linear(name: "a", id: 0, matrix: Matrix([0], rows: 1, columns: 1), bias: nil, isConv1D: false)
    let all = Array(repeating: Expert(up: [linear], down: linear), count: p.count / rows)
    return Routing(p, rows: rows, Experts(router: linear, all: all, used: used, addsUp: addsUp))
  }

  @Test("those of the greatest p, each with its p or its part of their sum")
  func greatest() {
    let p: [Float] = [0.125, 0.5, 0.25, 0.125]
    #expect(routing(p, rows: 1, used: 2).taken == [1, 2])
    #expect(routing(p, rows: 1, used: 2).shares == [0.5, 0.25])
    #expect(routing(p, rows: 1, used: 2, addsUp: true).shares == [0.5 / 0.75, 0.25 / 0.75])
  }

  @Test("pairs are in the order of experts, then of rows")
  func order() {
    let found = routing([0, 0.75, 0.25, 0.5, 0, 0.5, 0.25, 0.75, 0], rows: 3, used: 2)
    #expect((0..<3).map { found.pairs($0).map(found.row) } == [[1, 2], [0, 2], [0, 1]])
  }

  @Test("equal ones in their order, and each once, NaN too", arguments: [Float(0.25), .nan])
  func equal(_ value: Float) {
    #expect(routing([value, value, value, value], rows: 1, used: 3).taken == [0, 1, 2])
  }
}

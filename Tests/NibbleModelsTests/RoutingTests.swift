import NibbleCompute
import NibbleCore
import Testing

@testable import NibbleModels

@Suite("Experts that rows take")
struct RoutingTests {
  private func routing(
    _ p: [Float], rows: Int, used: Int, addsUp: Bool = false, scale: Float = 1, groups: ExpertGroups? = nil, correction: [Float]? = nil
  ) -> Routing {
    let linear = Linear(name: "a", id: 0, matrix: Matrix([0], rows: 1, columns: 1), bias: nil, isConv1D: false)
    let all = Array(repeating: Expert(up: [linear], down: linear), count: p.count / rows)
    var rule = RoutingRule(used: used, addsUp: addsUp)
    (rule.scale, rule.groups) = (scale, groups)
    let vector = correction.map { Vector(id: 1, values: FloatStore($0)) }
    return Routing(p, rows: rows, Experts(router: linear, all: all, rule: rule, correction: vector))
  }

  @Test("those of the greatest p, each with its p or its part of their sum")
  func greatest() {
    let p: [Float] = [0.125, 0.5, 0.25, 0.125]
    #expect(routing(p, rows: 1, used: 2).taken == [1, 2])
    #expect(routing(p, rows: 1, used: 2).shares == [0.5, 0.25])
    #expect(routing(p, rows: 1, used: 2, addsUp: true).shares == [0.5 / 0.75, 0.25 / 0.75])
  }

  @Test("a correction decides which are taken, and not what they count with")
  func corrected() {
    let found = routing([0.125, 0.5, 0.25, 0.125], rows: 1, used: 2, addsUp: true, scale: 3, correction: [1, -1, 0, 0])
    #expect(found.taken == [0, 2])
    #expect(found.shares == [1, 2])
  }

  @Test("only experts of the best groups are taken")
  func groups() {
    let p: [Float] = [0.5, 0, 0.375, 0.25, 0.125, 0.25]
    #expect(routing(p, rows: 1, used: 2, groups: ExpertGroups(count: 3, used: 1, counted: 1)).taken == [0, 1])
    #expect(routing(p, rows: 1, used: 2, groups: ExpertGroups(count: 3, used: 1, counted: 2)).taken == [2, 3])
    #expect(routing(p, rows: 1, used: 3, groups: ExpertGroups(count: 3, used: 2, counted: 2)).taken == [0, 2, 3])
    // Closed ones count less than any other, and those of equal groups that come first are taken.
    #expect(routing(p.map { _ in 0 }, rows: 1, used: 2, groups: ExpertGroups(count: 3, used: 1, counted: 2), correction: [-9, -9, -9, -9, -9, -9]).taken == [0, 1])
  }

  @Test("pairs are in the order of experts, then of rows")
  func order() {
    let found = routing([0, 0.75, 0.25, 0.5, 0, 0.5, 0.25, 0.75, 0], rows: 3, used: 2)
    #expect((0..<3).map { found.pairs($0).map(found.row) } == [[1, 2], [0, 2], [0, 1]])
  }

  @Test("equal ones in their order, and each once, NaN too", arguments: [Float(0.25), .nan, -.infinity])
  func equal(_ value: Float) {
    #expect(routing([value, value, value, value], rows: 1, used: 3).taken == [0, 1, 2])
    #expect(routing([value, value, value, value], rows: 1, used: 3, groups: ExpertGroups(count: 2, used: 1, counted: 2)).taken == [0, 1, 2])
  }
}

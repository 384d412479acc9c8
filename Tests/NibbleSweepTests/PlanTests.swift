import NibbleCore
import TestSupport
import Testing

@testable import NibbleSweep

/// Reads a plan as it stands, with options under the names they have there.
func plan(_ text: String, _ variables: [String: String] = [:]) throws -> SweepPlan {
  try SweepPlan(text, path: "p.yaml", variables: variables) { name, _ in
    guard name != "lora-rr" else { throw NibbleError.usage("unknown option; did you mean lora-r?") }
    return name == "r" ? "lora-r" : name
  }
}

@Suite("Plans of sweeps")
struct PlanTests {
  static let small = "finetune: {base: B, data: D}\n"

  @Test("a grid is a product, in the order of the plan; named sets come first")
  func grid() throws {
    let found = try plan(
      """
      name: ranks
      quantize: {model: M}
      finetune: {data: D, lora_alpha: 16}
      cells: {one: {target-modules: [q_proj, v_proj]}, two: {quantize.encoder: mse}}
      grid:
        r: [1, 2]
        "lora-dropout, weight-decay": [[0, 0.1], [0.1, 0]]
      seeds: [1, 2, 3]
      """)
    #expect(found.cells.count == 8 && found.cells[0].seeds == [1, 2, 3])
    #expect(
      found.cells.map(\.title).prefix(3) == [
        "one, r=1, lora-dropout=0, weight-decay=0.1", "one, r=1, lora-dropout=0.1, weight-decay=0", "one, r=2, lora-dropout=0, weight-decay=0.1",
      ])
    let last = try #require(found.cells.last?.chain)
    #expect(last.finetune?["lora-r"]?.text == "2" && last.finetune?["lora-alpha"]?.text == "16" && last.finetune?["weight-decay"]?.text == "0")
    #expect(last.quantize?["encoder"]?.text == "mse" && found.cells[0].chain.quantize?["encoder"] == nil)
    #expect(found.cells[0].chain.finetune?["target-modules"]?.values == [.text("q_proj"), .text("v_proj")])
    #expect(found.experiments[0].axes.map(\.name) == ["cell", "r", "lora-dropout"])
  }

  @Test("experiments change what the plan says, and have tables of their own")
  func experiments() throws {
    let found = try plan(
      """
      finetune: {base: B, data: D, max-steps: 3}
      seeds: [1]
      experiments:
        ranks: {grid: {lora-r: [1, 2]}}
        long: {finetune: {max-steps: 9}, seeds: [5, 6], cells: {a: {}, b: {finetune: none}}}
      """)
    #expect(found.experiments.map(\.name) == ["ranks", "long"] && found.cells.map(\.seeds) == [[1], [1], [5, 6], [nil]])
    #expect(found.cells.map { $0.chain.finetune?["max-steps"]?.text } == ["3", "3", "9", nil])
  }

  @Test("variables are filled in everywhere, and given ones win")
  func variables() throws {
    let text = "variables: {MODEL: , STEPS: 5}\nfinetune: {base: '${MODEL}', data: '${MODEL}/d.jsonl', max-steps: '${STEPS}', bias: $x}"
    let found = try plan(text, ["MODEL": "m"])
    #expect(try #require(found.cells[0].chain.finetune).compactMap(\.text) == ["m", "m/d.jsonl", "5", "$x"])
  }

  @Test(
    "what is wrong is named with its line and key",
    arguments: [
      ("a: 1", "p.yaml:1: a: no key of a plan"), ("- a", "p.yaml: not a plan"), ("", "p.yaml: not a plan"), ("name: x", "p.yaml:1: name: nothing to run"),
      (small + "grid: {lora-rr: [1]}", "p.yaml:2: lora-rr: unknown option; did you mean lora-r?"), (small + "grid: {lora-r: 1}", "p.yaml:2: lora-r: not a list of values"),
      (small + "grid:\n  lora-r: [1, 1]", "p.yaml:3: lora-r: '1' twice"), (small + "grid: {a: [1], a: [2]}", "line 2: key 'a' twice"),
      (small + "grid: {'a, b': [[1, 2], [3]]}", "p.yaml:2: a, b: each element is a list of 2 values"), (small + "grid: {quantize.codec: [a]}", "p.yaml:2: quantize.codec: the plan has no quantize"),
      (small + "cells: {x: {merge: none}}", "the plan has no merge"), (small + "cells: {x: {finetune: all}}", "a cell leaves a verb out with 'finetune: none'"),
      (small + "cells: {lora-r: {lora-r: 1}}\ngrid: {lora-r: [1]}", ""), (small + "seeds: [1, x]", "p.yaml:2: seeds: 'x' is no seed"), (small + "seeds: [1, 1]", "a seed twice"),
      ("finetune: {base: B, data: D, seed: 3}\nseeds: [1]", "p.yaml:1: seed: the plan has seeds, too"), ("finetune: {r: 1, lora-r: 2}", "p.yaml:1: lora-r: the same option as a line above"),
      ("finetune: {output: x}", "p.yaml:1: output: a sweep sets output itself"), (small + "evaluate: {dev: {on: moon}}", "p.yaml:2: on: 'moon' is nothing to measure; there are base, adapter, merged"),
      ("variables: {M: }\n" + small, "p.yaml:1: M: the variable has no value; set M=VALUE gives it one"), ("finetune: {base: '${M}'}", "the plan has no variable 'M'"),
      ("finetune: {base: '${M'}", "'${' without '}'"), ("finetune: &a {base: B}\nmerge: *a", "p.yaml: line 2"), ("finetune: {base: [a", "p.yaml: line"),
      ("experiments: {a: {name: x}}", "p.yaml:1: name: no key of an experiment"), ("quantize: {model: M}\nseeds: [1]", "seeds are of finetune"),
    ])
  func wrong(_ text: String, _ expected: String) throws {
    guard !expected.isEmpty else { return _ = try plan(text) }
    let error = #expect(throws: NibbleError.self) { try plan(text) }
    #expect(error?.message.contains(expected) == true && error?.kind == .usage, "\(error?.message ?? "")")
  }

  @Test("plans that would be too much are refused with a number")
  func hostile() throws {
    let list = "[" + (0..<100).map(String.init).joined(separator: ", ") + "]"
    let axes = (0..<40).map { "  a\($0): \(list)\n" }.joined()
    for (text, expected) in [
      (Self.small + "grid:\n" + axes, "asks for far more runs"), (Self.small + "grid: {a: \(list), b: \(list)}", "asks for 10000 runs, cells times seeds; at most 5000"),
      (Self.small + "grid: {a: " + String(repeating: "[", count: 5000) + String(repeating: "]", count: 5000) + "}", "nested deeper than 16 levels"),
      ("name: \"a\\u0000b\"\n" + Self.small, "is no name"), (Self.small + "grid:\n" + (0..<2000).map { "  k\($0): [1, 2]\n" }.joined(), "asks for far more runs"),
    ] {
      let error = #expect(throws: NibbleError.self) { try plan(text) }
      #expect(error?.message.contains(expected) == true, "\(error?.message ?? "")")
    }
  }
}

@Suite("Steps of a plan")
struct StepGraphTests {
  @Test("what is the same is done once: packing, models without training, trainings that differ in the merge alone")
  func shared() throws {
    let graph = try StepGraph(
      plan(
        """
        quantize: {model: M}
        finetune: {data: D}
        merge: {}
        grid: {lora-r: [1, 2], merge.when-lost: [keep, shape]}
        seeds: [1, 2]
        evaluate: {before: {on: base, task: lm}, beside: {on: adapter, task: lm}, merged: {task: lm}}
        """), path: "p")
    let counts = Dictionary(grouping: graph.steps.values, by: \.title).mapValues(\.count)
    #expect(counts == ["quantize": 1, "finetune": 4, "merge": 8, "evaluate before": 1, "evaluate beside": 4, "evaluate merged": 8])
    #expect(graph.runs.count == 8 && graph.runs.allSatisfy { $0.steps.map(\.name) == ["quantize", "finetune", "merge", "before", "beside", "merged"] })
    // What a step needs comes before it.
    var seen: Set<StepKey> = []
    for key in graph.order { #expect(graph.steps[key]?.needs.allSatisfy(seen.contains) == true && seen.insert(key).inserted) }
    #expect(Set(graph.steps.values.map(\.folder)).count == graph.steps.count)
  }

  @Test("a model trained whole is measured itself, and one on another base packs nothing")
  func whole() throws {
    let graph = try StepGraph(
      plan(
        """
        quantize: {model: M}
        finetune: {data: D}
        evaluate: {dev: {task: lm}}
        cells: {full: {method: full, base: M}, packed: {}, lora: {base: M}, none: {finetune: none}}
        """), path: "p")
    func options(_ run: Int) -> [String: [PlanOption.Value]] {
      graph.runs[run].step("dev").flatMap { graph.steps[$0] }.map { Dictionary(uniqueKeysWithValues: $0.options.map { ($0.name, $0.values) }) } ?? [:]
    }
    #expect(graph.runs.map { $0.steps.map(\.name) } == [["finetune", "dev"], ["quantize", "finetune", "dev"], ["finetune", "dev"], ["quantize", "dev"]])
    #expect(options(0)["base"] == [.output(of: graph.runs[0].steps[0].key)] && options(0)["adapter"] == nil)
    #expect(options(1)["base"] == options(3)["base"] && options(1)["adapter"] != nil && options(3)["adapter"] == nil && options(2)["base"] == [.text("M")])
  }

  @Test("the key of a step follows its options and the contents of its files, not their times")
  func keys() throws {
    let folder = TemporaryFolder()
    func key(_ rank: Int) throws -> StepKey? {
      try StepGraph(plan("finetune: {base: \(folder.path), data: \(folder.file("d.jsonl")), lora-r: \(rank)}"), path: "p").order.first
    }
    try folder.write("d.jsonl", "{}")
    let first = try key(1)
    try folder.write("d.jsonl", "{}")
    #expect(try key(1) == first)
    #expect(try key(2) != first)
    try folder.write("d.jsonl", "[]")
    #expect(try key(1) != first)
  }

  @Test(
    "chains that do not hold together",
    arguments: [
      ("finetune: {data: D}", "finetune has no base"), ("finetune: {base: packed}", "there is no quantize whose output could be 'packed'"),
      ("finetune: {base: B}\nevaluate: {d: {on: merged}}", "d: on: merged, but nothing is merged"), ("evaluate: {d: {task: lm}}", "d: nothing says which model is measured"),
      ("quantize: {model: M}\nevaluate: {d: {on: adapter}}", "d: on: adapter, but nothing is trained"),
    ])
  func wrong(_ text: String, _ expected: String) throws {
    let error = #expect(throws: NibbleError.self) { try StepGraph(plan(text), path: "p.yaml") }
    #expect(error?.message.contains(expected) == true && error?.message.hasPrefix("p.yaml:") == true, "\(error?.message ?? "")")
  }

  @Test("names of files are plain, and tell texts apart", arguments: ["lora-r=4, target-modules=all-linear", "../../etc", "a/b", ".hidden", "ü", String(repeating: "x", count: 300)])
  func names(_ text: String) {
    let name = SweepFolder.fileName(text)
    #expect(name.utf8.count <= 90 && !name.contains("/") && !name.hasPrefix(".") && name.allSatisfy(\.isASCII))
    #expect(name != SweepFolder.fileName(text + "/") && SweepFolder.fileName("lora-r=4, x=1") == "lora-r=4_x=1")
  }
}

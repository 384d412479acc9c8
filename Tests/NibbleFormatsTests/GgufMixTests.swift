import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

/// Choices are compared with llama.cpp's own (`Fixtures/ggml/mixes.cpp`).
@Suite("Mixes of ggml's types")
struct GgufMixTests {
  private struct Case {
    let model: GgufMix.Model
    var tensors: [(name: String, shape: [Int])]
    /// By mix: a letter a tensor, A for the type 0.
    let types: [(key: String, value: JSON)]

    init(_ json: JSON) throws {
      func number(_ key: String) throws -> Int { try #require(json[key]?.int) }
      model = GgufMix.Model(
        architecture: try #require(json["architecture"]?.string), layers: try number("layers"), heads: try number("heads"),
        keyHeads: try number("key_heads"), experts: try number("experts"))
      func tensors(_ key: String) throws -> [(name: String, shape: [Int])] {
        try #require(json[key]?.array).map { (try #require($0.array?[0].string), ($0.array?[1].array ?? []).compactMap(\.int)) }
      }
      let layer = try tensors("layer")
      self.tensors = try tensors("outside") + (0..<model.layers).flatMap { number in layer.map { ("blk.\(number).\($0.name)", $0.shape) } }
      types = try #require(json["types"]?.members)
    }
  }

  static let names = ["llama 8B", "SmolLM2 135M", "llama 70B", "qwen2 0.5B", "mixtral", "four experts", "gpt2", "bert", "falcon", "odd"]

  @Test("are llama-quantize's, tensor by tensor", arguments: names)
  func choices(_ name: String) throws {
    let all = try JSON.parse(bytes(of: fixture("ggml/mixes.json"))).array ?? []
    let one = try Case(#require(all.first { $0["name"]?.string == name }))
    for (key, value) in one.types {
      let mix = try #require(GgufMix(name: key))
      let chosen = mix.types(of: one.tensors, in: one.model)
      let expected = try #require(value.string).utf8.map { Int($0) - 65 }
      let wrong = zip(chosen, expected).enumerated().filter { $1.0.type.number != $1.1 }.map { one.tensors[$0.offset].name }
      #expect(chosen.count == expected.count && wrong.isEmpty, "\(key): \(wrong.prefix(4))")
    }
    // Whatever order tensors come in, a tensor's type is the same.
    let mix = try #require(GgufMix(name: "q4_k_m"))
    #expect(mix.types(of: one.tensors.reversed(), in: one.model).reversed() == mix.types(of: one.tensors, in: one.model))
  }

  @Test("have llama.cpp's names and numbers, and say where a type did not fit")
  func table() {
    #expect(GgufMix(name: "Q4_K_M")?.fileType == 15 && GgufMix(name: "q4_k")?.name == "q4_k_m" && GgufMix(name: "q2_k_s") == nil)
    #expect(Set(GgufMix.all.map(\.fileType)).count == GgufMix.all.count)
    let model = GgufMix.Model(architecture: "llama", layers: 1, heads: 9, keyHeads: 3)
    let choice = GgufMix(name: "q4_k_s")?.types(of: [("blk.0.attn_q.weight", [576, 576]), ("blk.0.attn_q.weight", [8, 30])], in: model)
    #expect(choice?.map(\.type) == [.q5_0, .f16] && choice?.map(\.wanted) == [.q4_k, .q4_k])
  }

  @Test("guard the first feed-forward layers where there is an importance matrix")
  func importance() {
    var model = GgufMix.Model(architecture: "llama", layers: 16, heads: 4, keyHeads: 2)
    let tensors: [(name: String, shape: [Int])] = (0..<16).map { (name: "blk.\($0).ffn_down.weight", shape: [256, 256]) }
    let cases: [(name: String, first: GGMLType, rest: GGMLType, without: GGMLType)] = [
      ("q4_0", .q4_1, .q4_0, .q4_0), ("q5_0", .q5_1, .q5_0, .q5_0), ("iq4_nl", .iq4_nl, .iq4_nl, .q5_k), ("q4_k_s", .q5_k, .q4_k, .q5_k),
    ]
    for one in cases {
      let mix = GgufMix(name: one.name)
      let rest = Array(repeating: one.rest, count: 14)
      model.hasImportance = true
      #expect(mix?.types(of: tensors, in: model).map(\.type) == [one.first, one.first] + rest)
      model.hasImportance = false
      #expect(mix?.types(of: tensors, in: model).map(\.type) == [one.without, one.without] + rest)
    }
  }
}

import NibbleCore
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleFormats

@Suite("Whole models as GGUF")
struct GgufModelTests {
  let folder = TemporaryFolder()

  private func source(_ change: (JSON) -> JSON = { $0 }) throws -> Checkpoint {
    let source = try Checkpoint.open(fixture("stories260K"))
    return source.with(config: change(try #require(source.config)))
  }

  private func job(_ name: String, _ source: Checkpoint, format: OutputFormat? = nil, _ options: (inout GgufOptions) throws -> Void = { _ in }) throws -> StreamJob {
    var spec = try OutputSpec(path: folder.file(name), format: format, default: .gguf)
    try options(&spec.gguf)
    return try StreamJob.convert(source, to: spec)
  }

  @Test("The size is known to the byte, whatever the types are", arguments: [nil, "f16", "q8_0", "q4_0", "mxfp4", "q4_k_m", "auto"])
  func sizes(_ type: String?) throws {
    let job = try job("a.gguf", source()) { $0.type = type }
    let predicted = job.prediction()
    #expect(try predicted.isExact && predicted.outputBytes == job.run().bytesOut)
    #expect(try bytes(of: folder.file("a.gguf")).count == predicted.outputBytes)
  }

  @Test("Several files hold what one does, and each says which it is")
  func shards() throws {
    var whole = try job("a.gguf", source())
    let bytesOut = try whole.run().bytesOut
    whole = try job("b", source(), format: .gguf)
    whole.output.maximumShard = 200_000
    let predicted = whole.prediction().outputBytes
    #expect(try whole.run().bytesOut == predicted && predicted > bytesOut)
    let names = try namesInFolder(folder.file("b")).sorted()
    #expect(names.count > 2 && names[0] == "model-00001-of-0000\(names.count).gguf")
    let files = try names.map { try GgufFile(folder.file("b/" + $0)) }
    #expect(files.map { $0.number("split.no") } == files.indices.map { Double($0) })
    #expect(files.reduce(0) { $0 + $1.tensors.count } == (try GgufFile(folder.file("a.gguf"))).tensors.count)
  }

  @Test("An interrupted run is taken up, and the file is the same")
  func resumed() throws {
    _ = try job("a.gguf", source()) { $0.type = "q8_0" }.run()
    var again = try job("b.gguf", source()) { $0.type = "q8_0" }
    again.resumes = true
    _ = try again.run()
    #expect(try bytes(of: folder.file("a.gguf")) == bytes(of: folder.file("b.gguf")))
  }

  @Test("Where two keys say how positions are scaled, rope_scaling counts")
  func scaling() throws {
    let both = try source {
      $0.setting("rope_parameters", to: ["rope_type": "default", "rope_theta": 10_000]).setting("rope_scaling", to: ["rope_type": "linear", "factor": 2])
    }
    _ = try job("a.gguf", both).run()
    #expect(try GgufFile(folder.file("a.gguf")).number("llama.rope.scaling.factor") == 2)
  }

  static let refusals: [(String, @Sendable (JSON) -> JSON)] = [
    ("not for model_type 'mpt'", { $0.setting("model_type", to: "mpt") }),
    ("hidden_act is 'relu'", { $0.setting("hidden_act", to: "relu") }),
    ("rope_type is 'dynamic'", { $0.setting("rope_scaling", to: ["rope_type": "dynamic", "factor": 2]) }),
    ("7 heads of queries cannot share 4 heads", { $0.setting("num_attention_heads", to: 7) }),
    ("has no rows for 64 heads", { $0.setting("num_attention_heads", to: 64) }),
    ("num_attention_heads is '8'", { $0.setting("num_attention_heads", to: "8") }),
    ("rms_norm_eps is '1e400'", { $0.setting("rms_norm_eps", to: .number("1e400")) }),
    ("max_position_embeddings is '-1'", { $0.setting("max_position_embeddings", to: -1) }),
    ("has 512 rows, and there are 100 tokens", { $0.setting("vocab_size", to: 100) }),
    ("has 512 rows, and there are 99999999999 tokens", { $0.setting("vocab_size", to: 99_999_999_999) }),
    ("its configuration says 6 layers, and tensors of layer 5 are missing", { $0.setting("num_hidden_layers", to: 6) }),
    ("its configuration says 4 layers, and there are tensors of 5", { $0.setting("num_hidden_layers", to: 4) }),
    ("tie_word_embeddings is false", { $0.setting("model_type", to: "gemma2").setting("tie_word_embeddings", to: false) }),
    ("its llama3 factors make no sense", { $0.setting("rope_scaling", to: ["rope_type": "llama3", "low_freq_factor": 0]) }),
  ]

  @Test("Configurations that llama.cpp could not follow are refused by name, before anything is written", arguments: refusals)
  func refused(_ words: String, _ change: @Sendable (JSON) -> JSON) throws {
    let error = #expect(throws: NibbleError.self) { try job("a.gguf", source(change)).check() }
    #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
    #expect(PathKind(folder.file("a.gguf")) == .nothing)
  }

  @Test("Types that a tensor cannot have are refused with those it can; rules that match nothing, too")
  func types() throws {
    for (rule, words) in [
      ("down_proj=q4_k", "its rows of 172 are no multiple of 256"), ("norm=f16", "llama.cpp has norms, biases and vectors in f32"),
      ("nothing=q8_0", "matches none of"), ("attn_q=q8_0", ""),
    ] {
      func planned() throws -> StreamJob { try job("a.gguf", source()) { $0.rules = [try GgufRule(rule)] } }
      guard !words.isEmpty else {
        #expect(try planned().items.filter { $0.target.encoding.isPacked }.count == 5)
        continue
      }
      let error = #expect(throws: NibbleError.self) { try planned() }
      #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
    }
    #expect(throws: NibbleError.self) { try job("a.gguf", source()) { $0.type = "q9" } }
    #expect(throws: NibbleError.self) { try GgufRule("q_proj") }
  }

  @Test("Codes are not rounded to other codes unless that is asked for")
  func requantized() throws {
    _ = try StreamJob.quantize(source(), QuantizeOptions(), to: OutputSpec(path: folder.file("m.nbl"), format: nil, default: .nbl)).run()
    let packed = try Checkpoint.open(folder.file("m.nbl"))
    let error = #expect(throws: NibbleError.self) { try job("a.gguf", packed) { $0.type = "q4_0" } }
    #expect(error?.message.contains("30 tensors are nf4 already, and q4_0 would round them once more, by another") == true, "\(error?.message ?? "")")
    for type in ["f16", "f32", "q8_0"] { #expect(throws: Never.self) { try job("a.gguf", packed) { $0.type = type } } }
    #expect(throws: Never.self) { try job("a.gguf", packed) { ($0.type, $0.requantizes) = ("q4_0", true) } }
  }

  @Test("A vowel sign that continues a word is no part of the marks before it")
  func spellings() {
    let token = "##\u{93E}"
    #expect(!token.hasPrefix("##") && token.begins(with: "##"))
    #expect(token.behind("##") == "\u{93E}" && "<|a\u{93E}|>".ends(with: "|>"))
    #expect(" \u{93E} b".replacing(scalar: " ", with: "Ġ") == "Ġ\u{93E}Ġb")
  }

  @Test("Rows of heads, first rows and added ones come back from where they lie in the file", arguments: [1, 7, 64, 500])
  func orders(_ piece: Int) {
    let plain = (0..<960).map { UInt8(truncatingIfNeeded: $0 * 7) }
    for order in [SectionOrder.interleaved(headRows: 8, rowBytes: 12), .withoutFirst(100)] {
      var stored: [UInt8] = []
      plain.withUnsafeBytes { order.forEachStored($0) { stored += $0 } }
      #expect(stored.count == order.storedLength(plain: plain.count))
      var back = [UInt8](repeating: 9, count: plain.count)
      back.withUnsafeMutableBytes { out in
        stored.withUnsafeBytes { stored in
          for at in stride(from: 0, to: plain.count, by: piece) {
            order.fill(.init(rebasing: out[at..<min(at + piece, plain.count)]), from: at, of: stored)
          }
        }
      }
      #expect(order == .withoutFirst(100) ? back == [UInt8](repeating: 0, count: 100) + plain[100...] : back == plain)
    }
  }
}

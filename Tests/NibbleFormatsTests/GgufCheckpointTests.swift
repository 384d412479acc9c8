import Foundation
import NibbleCore
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleFormats

@Suite("GGUF files as checkpoints")
struct GgufCheckpointTests {
  let bench = Bench()

  static func numbers(_ count: Int, _ seed: Int = 0) -> [Float] { (0..<count).map { Float(($0 &* 37 &+ seed &* 11) % 101) / 64 } }

  /// Pieces enough for a few words: unknown, begin, end, bytes' place, letters, words.
  static let pieces = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "▁ab", "<0x0A>", "<|x|>", "[PAD11]"]

  /// A Llama of one layer: two heads of four rows.
  static func llama() -> GgufBuilder {
    var file = GgufBuilder()
    file.keys = [
      ("general.architecture", .text("llama")), ("general.type", .text("model")), ("llama.block_count", .u32(1)),
      ("llama.context_length", .u32(64)), ("llama.embedding_length", .u32(8)), ("llama.feed_forward_length", .u32(12)),
      ("llama.attention.head_count", .u32(2)), ("llama.attention.head_count_kv", .u32(1)), ("llama.rope.dimension_count", .u32(4)),
      ("llama.rope.freq_base", .f32(500_000)), ("llama.attention.layer_norm_rms_epsilon", .f32(1e-5)), ("llama.vocab_size", .u32(12)),
      ("tokenizer.ggml.model", .text("llama")), ("tokenizer.ggml.pre", .text("default")), ("tokenizer.ggml.tokens", .texts(pieces)),
      ("tokenizer.ggml.scores", .floats([0, 0, 0, -3, -4, -5, -1, -2, -2.5, 0, -1000, -1000])),
      ("tokenizer.ggml.token_type", .i32s([2, 3, 3, 1, 1, 1, 1, 1, 1, 6, 3, 5])), ("tokenizer.ggml.bos_token_id", .u32(1)),
      ("tokenizer.ggml.eos_token_id", .u32(2)), ("tokenizer.chat_template", .text("{{ bos_token }}{{ messages[0].content }}")),
    ]
    let shapes: [(String, [Int])] = [
      ("token_embd", [12, 8]), ("blk.0.attn_norm", [8]), ("blk.0.attn_q", [8, 8]), ("blk.0.attn_k", [4, 8]), ("blk.0.attn_v", [4, 8]),
      ("blk.0.attn_output", [8, 8]), ("blk.0.ffn_norm", [8]), ("blk.0.ffn_gate", [12, 8]), ("blk.0.ffn_up", [12, 8]),
      ("blk.0.ffn_down", [8, 12]), ("output_norm", [8]),
    ]
    for (seed, (name, shape)) in shapes.enumerated() { file.add(name + ".weight", shape, numbers(shape.reduce(1, *), seed)) }
    return file
  }

  func open(_ file: GgufBuilder, _ name: String = "m.gguf") throws -> Checkpoint { try Checkpoint.open(bench.folder.write(name, file.bytes)) }

  func values(_ tensor: StoredTensor) throws -> [Float] {
    var all: [Float] = []
    try tensor.forEachValues { _, x, count, _ in all += UnsafeBufferPointer(start: x, count: count) }
    return all
  }

  @Test("a model has Hugging Face's names, its order of rows, and a configuration")
  func llama() throws {
    let checkpoint = try open(Self.llama())
    #expect(checkpoint.container == .gguf && checkpoint.modelType == "llama" && checkpoint.tensors.count == 11)
    #expect(checkpoint.warnings.isEmpty)
    let q = try #require(checkpoint.tensor("model.layers.0.self_attn.q_proj.weight"))
    let stored = Self.numbers(64, 2)
    // Rows 0 and 2 of a head are those of its first half.
    let rows = [0, 2, 1, 3, 4, 6, 5, 7].flatMap { stored[8 * $0..<8 * $0 + 8] }
    #expect(try values(q) == rows)
    let mapped = try MappedCheckpoint(checkpoint)
    #expect(try mapped.floats(q) == rows)
    let config = try #require(checkpoint.config)
    #expect(
      config == [
        "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "head_dim": 4, "hidden_act": "silu", "hidden_size": 8,
        "intermediate_size": 12, "max_position_embeddings": 64, "model_type": "llama", "num_attention_heads": 2, "num_hidden_layers": 1,
        "num_key_value_heads": 1, "rms_norm_eps": JSON(1e-05), "rope_theta": JSON(500_000.0), "tie_word_embeddings": true, "torch_dtype": "float32",
        "vocab_size": 12,
      ])
  }

  @Test("converted to safetensors it has the identity that it had, and no number has changed")
  func identity() throws {
    let checkpoint = try open(Self.llama())
    let report = try StreamJob.convert(checkpoint, to: bench.spec("out", .safetensors)).run()
    let folder = try Checkpoint.open(bench.folder.file("out"))
    #expect(try folder.hash() == checkpoint.hash() && report.identity == folder.hash())
    #expect(Set(folder.smallFiles.map(\.name)) == ["config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"])
    #expect(try checkpoint.diff(folder).changed.isEmpty)
  }

  @Test("linear positions stay linear, whatever their factor is", arguments: [1, 2.5])
  func linear(_ factor: Double) throws {
    var file = Self.llama()
    file.keys += [("llama.rope.scaling.type", .text("linear")), ("llama.rope.scaling.factor", .f32(Float(factor)))]
    #expect(try open(file).config?["rope_scaling"] == ["rope_type": "linear", "factor": JSON(factor)])
  }

  @Test("tokens that users added are no pieces on the way back")
  func added() throws {
    var file = Self.llama()
    file["tokenizer.ggml.token_type"] = .i32s([2, 3, 3, 1, 1, 1, 1, 1, 1, 6, 4, 5])
    let name = "tokenizer_config.json"
    let config = try JSON.parse(try #require(try open(file).contents(ofSmallFiles: [name])[name]))
    let added = config["added_tokens_decoder"]
    #expect(added?.members?.map(\.key) == ["10"] && added?["10"]?["content"]?.string == "<|x|>" && added?["10"]?["special"]?.bool == false)
  }

  @Test("frequency factors become Llama 3's parameters again", arguments: [(8.0, 1.0, 4.0, 8192), (32, 1, 4, 8192), (4, 1, 8, 4096), (16, 1, 1, 8192)])
  func frequencies(_ factor: Double, _ low: Double, _ high: Double, _ trained: Int) throws {
    var file = Self.llama()
    let size = 64
    (file["llama.attention.head_count"], file["llama.attention.head_count_kv"]) = (.u32(1), .u32(1))
    file.tensors = [.init(name: "token_embd.weight", shape: [12, 64], type: 0, data: Self.numbers(768).flatMap { littleEndian($0.bitPattern) })]
    (file["llama.embedding_length"], file["llama.rope.dimension_count"]) = (.u32(64), .u32(64))
    let factors = (0..<size / 2).map { index -> Float in
      let wave = 2 * Double.pi * pow(500_000, Double(2 * index) / Double(size))
      let c = Double(trained), s = (c / wave - low) / (high - low)
      return Float(wave < c / high ? 1 : wave > c / low ? factor : 1 / ((1 - s) / factor + s))
    }
    file.add("rope_freqs.weight", [32], factors)
    let checkpoint = try open(file)
    #expect(checkpoint.tensors.count == 1)
    #expect(
      checkpoint.config?["rope_scaling"] == [
        "rope_type": "llama3", "factor": JSON(factor), "low_freq_factor": JSON(low), "high_freq_factor": JSON(high),
        "original_max_position_embeddings": JSON(trained),
      ])
    // Factors that nobody computes so are refused by whoever runs the model, by their name.
    file.tensors[1].data.replaceSubrange(0..<4, with: littleEndian(Float(1.5).bitPattern))
    #expect(try open(file).config?["rope_scaling"] == ["rope_type": "rope_freqs.weight"])
  }

  @Test("GPT-2's matrices are [in, out] again, in blocks as they lie")
  func gpt2() throws {
    var file = GgufBuilder()
    file.keys = [
      ("general.architecture", .text("gpt2")), ("gpt2.block_count", .u32(1)), ("gpt2.context_length", .u32(4)), ("gpt2.embedding_length", .u32(2)),
      ("gpt2.attention.head_count", .u32(1)), ("gpt2.feed_forward_length", .u32(32)), ("gpt2.attention.layer_norm_epsilon", .f32(1e-5)),
    ]
    file.add("blk.0.attn_output.weight", [3, 2], [1, 2, 3, 4, 5, 6])
    file.tensors.append(.init(name: "blk.0.ffn_down.weight", shape: [2, 32], type: 8, data: [0, 0x3C] + (0..<32) + [0, 0x40] + (0..<32)))
    let checkpoint = try open(file)
    let plain = try #require(checkpoint.tensor("transformer.h.0.attn.c_proj.weight"))
    #expect(plain.shape == [2, 3] && !plain.isTransposed)
    #expect(try values(plain) == [1, 3, 5, 2, 4, 6])
    let blocks = try #require(checkpoint.tensor("transformer.h.0.mlp.c_proj.weight"))
    #expect(blocks.logicalShape == [32, 2] && blocks.isTransposed && blocks.encoding.name == "q8_0")
    #expect(try values(blocks) == (0..<32).map { Float($0) } + (0..<32).map { Float(2 * $0) })
    // Both ways: numbers as they were made, and rows of inputs put together again.
    _ = try StreamJob.convert(checkpoint, to: bench.spec("out.safetensors", .safetensors)).run()
    let written = try Checkpoint.open(bench.folder.file("out.safetensors"))
    let decoded = try #require(written.tensor("transformer.h.0.mlp.c_proj.weight"))
    #expect(decoded.shape == [32, 2] && decoded.dtype == .f32)
    #expect(try values(decoded) == (0..<32).flatMap { [Float($0), Float(2 * $0)] })
    #expect(try values(try #require(written.tensor("transformer.h.0.attn.c_proj.weight"))) == [1, 3, 5, 2, 4, 6])
  }

  @Test("RoBERTa's positions have their first rows again")
  func roberta() throws {
    var file = GgufBuilder()
    file.keys = [
      ("general.architecture", .text("bert")), ("bert.block_count", .u32(1)), ("bert.context_length", .u32(3)), ("bert.embedding_length", .u32(2)),
      ("bert.attention.head_count", .u32(1)), ("bert.feed_forward_length", .u32(4)), ("bert.attention.layer_norm_epsilon", .f32(1e-12)),
      ("tokenizer.ggml.model", .text("gpt2")), ("tokenizer.ggml.pre", .text("gpt-2")), ("tokenizer.ggml.tokens", .texts(["a", "b"])),
      ("tokenizer.ggml.merges", .texts(["a b"])), ("tokenizer.ggml.padding_token_id", .u32(1)),
    ]
    file.add("position_embd.weight", [3, 2], [1, 2, 3, 4, 5, 6])
    let checkpoint = try open(file)
    #expect(checkpoint.modelType == "roberta" && checkpoint.config?["max_position_embeddings"] == 5)
    let table = try #require(checkpoint.tensor("roberta.embeddings.position_embeddings.weight"))
    #expect(table.shape == [5, 2])
    #expect(try values(table) == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6])
    #expect(try MappedCheckpoint(checkpoint).floats(table) == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6])
  }

  @Test("Gemma's norms lose the one that was added")
  func gemma() throws {
    var file = GgufBuilder()
    file.keys = [
      ("general.architecture", .text("gemma")), ("gemma.block_count", .u32(1)), ("gemma.context_length", .u32(3)), ("gemma.embedding_length", .u32(5)),
      ("gemma.attention.head_count", .u32(1)), ("gemma.feed_forward_length", .u32(4)), ("gemma.attention.layer_norm_rms_epsilon", .f32(1e-6)),
    ]
    file.add("blk.0.attn_norm.weight", [5], [1.5, 0.25, -3, 1, 2])
    let model = try open(file)
    #expect(try values(#require(model.tensor("model.layers.0.input_layernorm.weight"))) == [0.5, -0.75, -4, 0, 1])
  }

  @Test("parts are one model")
  func parts() throws {
    let whole = Self.llama()
    var first = whole, second = GgufBuilder()
    first.tensors = Array(whole.tensors[..<4])
    first.keys += [("split.no", .u32(0)), ("split.count", .u32(2)), ("split.tensors.count", .u32(11))]
    second.tensors = Array(whole.tensors[4...])
    second.keys = [("split.no", .u32(1)), ("split.count", .u32(2)), ("split.tensors.count", .u32(11))]
    let path = try bench.folder.write("m-00001-of-00002.gguf", first.bytes)
    func refused(_ words: String, _ path: String) {
      #expect { try Checkpoint.open(path) } throws: { "\($0)".contains(words) }
    }
    refused("is missing", path)
    let other = try bench.folder.write("m-00002-of-00002.gguf", second.bytes)
    #expect(try Checkpoint.open(path).hash() == open(whole).hash())
    refused("part 2 of 2; give the first, ", other)
    // Their folder is the model, too, as long as it holds one: what reads images beside it is none.
    let folder = TemporaryFolder()
    for (name, bytes) in [("m-00001-of-00002.gguf", first.bytes), ("m-00002-of-00002.gguf", second.bytes), ("mmproj-m.gguf", second.bytes)] {
      try folder.write(name, bytes)
    }
    #expect(try Checkpoint.open(folder.path).hash() == open(whole).hash())
    try folder.write("other-q8-of-8.gguf", whole.bytes)
    refused("2 models in GGUF; give one of them itself, such as", folder.path)
    refused("must end in", try bench.folder.write("lone.gguf", first.bytes))
    second.keys[2].value = .u32(9)
    first.keys[first.keys.count - 1].value = .u32(9)
    try bench.folder.write("m-00002-of-00002.gguf", second.bytes)
    refused("hold 11 tensors, split.tensors.count is 9", try bench.folder.write("m-00001-of-00002.gguf", first.bytes))
  }

  @Test("what is not translated is said: an architecture, a key, a rule of words")
  func unknown() throws {
    var file = Self.llama()
    file["general.architecture"] = .text("mamba")
    let other = try open(file)
    #expect(other.config == nil && other.tensor("blk.0.attn_q.weight") != nil)
    file = Self.llama()
    file["llama.logit_cube"] = .f32(2)
    #expect(try open(file).config?["untranslated_gguf_keys"] == ["llama.logit_cube"])
    file = Self.llama()
    (file["tokenizer.ggml.model"], file["tokenizer.ggml.pre"]) = (.text("gpt2"), .text("nobody-knows"))
    let checkpoint = try open(file)
    #expect(checkpoint.warnings.count == 1 && "\(checkpoint.warnings[0])".contains("'nobody-knows'"))
    #expect { try checkpoint.contents(ofSmallFiles: ["tokenizer.json"]) } throws: { "\($0)".contains("'nobody-knows'") }
    #expect(try checkpoint.contents(ofSmallFiles: ["config.json"]).count == 1)
  }

  // MARK: - Hostile files

  /// Words of the message, and what is wrong.
  static let broken: [(words: String, change: @Sendable (inout GgufBuilder) -> Void)] = [
    ("not the magic", { $0.magic = Array("GGUX".utf8) }), ("Git LFS", { $0.magic = Array("version https://git-lfs.github.com/spec/v1\n".utf8) }),
    ("version 4", { $0.version = 4 }), ("big-endian", { $0.version = 3 << 24 }), ("more than any model", { $0.tensorCount = 1 << 40 }),
    ("the number", { $0.tensorCount = .max }), ("more than any model", { $0.keyCount = 1 << 40 }), ("without a name", { $0.tensorCount = 12 }),
    ("cut", { $0.tensors[10].data.removeLast(32) }), ("bytes follow the last tensor", { $0.tail = [1] }),
    ("a key of", { $0.keys.insert((String(repeating: "k", count: 70000), .u32(1)), at: 0) }),
    ("of 4611686018427387904 bytes", { $0["x"] = .raw(8, littleEndian(UInt64(1) << 62)) }), ("no UTF-8", { $0["x"] = .raw(8, littleEndian(UInt64(1)) + [0xC3]) }),
    ("unknown type, 13", { $0["x"] = .raw(13, []) }),
    ("lists in lists", { $0["x"] = .raw(9, (0..<9).flatMap { _ in littleEndian(UInt32(9)) + littleEndian(UInt64(1)) }) }),
    ("entries", { $0["x"] = .raw(9, littleEndian(UInt32(12)) + littleEndian(UInt64(Int.max))) }),
    ("cut", { $0["x"] = .raw(9, littleEndian(UInt32(8)) + littleEndian(UInt64(Int.max))) }), ("is there twice", { $0.keys.append($0.keys[0]) }),
    ("is there twice", { $0.tensors[1].name = $0.tensors[0].name }),
    ("the name of a tensor of", { $0.tensors[0].name = String(repeating: "n", count: 5000) }), ("without a name", { $0.tensors[0].name = "" }),
    ("0 dimensions", { $0.tensors[0].shape = [] }), ("5 dimensions", { $0.tensors[0].shape = [1, 1, 1, 12, 8] }),
    ("cannot have the shape", { $0.tensors[0].shape = [0, 8] }), ("cannot have the shape", { $0.tensors[0].shape = [1 << 61 + 3, 8] }),
    ("cannot have the shape", { $0.tensors[0].shape = [1 << 40, 1 << 40] }), ("the number", { $0.tensors[0].shape = [.max, 8] }),
    ("ggml's type 4", { $0.tensors[0].type = 4 }), ("ggml's type 4294967295", { $0.tensors[0].type = .max }),
    ("cannot have the shape", { $0.tensors[0].type = 8 }), ("no multiple of 32", { $0.tensors[1].offset = 385 }),
    ("overlaps", { $0.tensors[1].offset = 352 }), ("leaves a hole", { $0.tensors[1].offset = 1 << 40 }),
    ("power of two", { $0["general.alignment"] = .u32(0) }), ("power of two", { $0["general.alignment"] = .u32(48) }),
    ("power of two", { $0["general.alignment"] = .text("32") }), ("is missing, so this is no model", { $0["general.architecture"] = nil }),
    ("nibble adapter convert", { $0["general.type"] = .text("adapter") }), ("no checkpoint", { $0["general.type"] = .text("imatrix") }),
    ("no rows for the halves of 3 heads", { $0["llama.attention.head_count"] = .u32(3) }), ("num_key_value_heads", { $0["llama.attention.head_count_kv"] = .u32(9) }),
    ("expected a whole number above 0", { $0["llama.embedding_length"] = .u32(0) }), ("expected a whole number", { $0["llama.block_count"] = .text("1") }),
    ("the same for all layers", { $0["llama.attention.head_count"] = .i32s([2, 3]) }), ("expected a finite number", { $0["llama.rope.freq_base"] = .f32(.nan) }),
    ("under two names", { $0.tensors[1].name = "model.embed_tokens.weight" }),
    ("13 entries, the embedding 12 rows", { $0["tokenizer.ggml.tokens"] = .texts(pieces + ["x"]) }),
    ("a number for each of 12 tokens", { $0["tokenizer.ggml.scores"] = .floats([1, 2]) }),
    ("a number for each of 12 tokens", { $0["tokenizer.ggml.token_type"] = .i32s([1]) }), ("is not finite", { $0["tokenizer.ggml.scores"] = .floats([.nan] + numbers(11)) }),
    ("expected a list of texts", { $0["tokenizer.ggml.tokens"] = .i32s([1]) }), ("entry 0 of", { $0["tokenizer.ggml.tokens"] = .raw(9, littleEndian(UInt32(8)) + littleEndian(UInt64(1)) + littleEndian(UInt64(1)) + [0xFF]); $0["tokenizer.ggml.bos_token_id"] = nil; $0["tokenizer.ggml.eos_token_id"] = nil }),
    ("bos_token_id is 12, and there are 12 tokens", { $0["tokenizer.ggml.bos_token_id"] = .u32(12) }), ("no list of texts", { $0["tokenizer.ggml.merges"] = .u32(1) }),
    ("expected a text", { $0["tokenizer.chat_template"] = .u32(1) }), ("no count of parts", { $0["split.count"] = .u32(70000) }),
    ("are no number of a part", { $0["split.count"] = .u32(2); $0["split.no"] = .u32(2) }),
  ]

  @Test("a file that is wrong anywhere is refused with what is wrong", arguments: broken.indices)
  func hostile(_ index: Int) throws {
    let (words, change) = Self.broken[index]
    var file = Self.llama()
    change(&file)
    let path = try bench.folder.write("bad.gguf", file.bytes)
    let error = #expect(throws: NibbleError.self, "\(words)") { try Checkpoint.open(path).verify(threads: 1) }
    #expect(error?.kind == .badInput && error?.message.contains(words) == true && error?.path == path, "\(words): \(error?.message ?? "")")
  }

  @Test("none that is cut is read")
  func cuts() throws {
    let whole = Self.llama().bytes
    for count in 0..<whole.count where count < 40 || count % 61 == 0 {
      let path = try bench.folder.write("bad.gguf", Array(whole[..<count]))
      #expect(throws: NibbleError.self, "\(count)") { try Checkpoint.open(path).verify(threads: 1) }
    }
  }
}

import NibbleAdapters
import NibbleCore
import NibbleModels
import NibbleTraining

/// A pass through a small model and back, with an adapter being trained, of rows of drawn lengths: a row a part, a token a byte.
func fuzzPasses(_ input: Input) throws {
  let cases = [("llama", "dec_lora_qv"), ("llama", "dec_dora"), ("llama-bnb-nf4-dq", "dec_dora"), ("gpt2", "gpt2_dora"), ("roberta", "roberta_cls")]
  let (base, adapter) = cases[Int(input.choice) % cases.count]
  let rows = input.parts.prefix(6).map { $0.prefix(24).map { Int($0) % 32 } }.filter { $0.count > 1 }
  guard !rows.isEmpty else { return }
  let model = try Model("Tests/Fixtures/models/" + base, threads: 1)
  let trained = try Trained(AdapterFile.open("Tests/Fixtures/adapters/" + adapter), on: model)
  let pass = TrainingPass(model, trained, checkpointing: input.choice & 0x80 != 0)
  let runs = rows.map { TokenRun($0) }
  let loss =
    base == "roberta"
    ? try pass.classes(.tokens(runs), targets: rows.map { [Double($0[0] % 2)] }).loss
    : try pass.language(runs, labels: rows).loss
  expect(loss.isFinite, "a loss is finite")
  for tensor in trained.tensors {
    expect(tensor.gradient.values.allSatisfy(\.isFinite), "\(tensor.name): gradients are finite")
  }
}

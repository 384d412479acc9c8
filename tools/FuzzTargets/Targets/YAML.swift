import NibbleCore

/// A file of options.
func fuzzYAML(_ input: Input) throws {
  guard let text = String(validating: input.bytes, as: UTF8.self) else { return }
  _ = try YAML.parse(text, place: "run.yaml")
}

import NibbleCore
import NibbleTemplates

/// A chat template, rendered with a conversation; the choice says with what white space.
func fuzzTemplate(_ input: Input) throws {
  guard let source = String(validating: input.bytes, as: UTF8.self) else { return }
  let whitespace = Template.Whitespace(trimsBlocks: input.choice & 1 == 0, stripsBlocks: input.choice & 2 == 0)
  let template = try Template(source, name: "template", whitespace: whitespace)
  let first = try template.render(context, now: 1_700_000_000)
  expect(try first == template.render(context, now: 1_700_000_000), "a template renders the same text twice")
  let count = first.text.unicodeScalars.count
  expect(first.generated.allSatisfy { $0.lowerBound >= 0 && $0.lowerBound <= count }, "marks lie in the output")
}

private let context = (try? JSON.parse(fixture("templates/context.json")))?.members ?? []

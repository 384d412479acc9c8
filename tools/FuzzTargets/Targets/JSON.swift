import NibbleCore

/// A JSON text: what is accepted comes out as it went in.
func fuzzJSON(_ input: Input) throws {
  let value = try JSON.parse(input.bytes)
  let layouts: [JSON.Layout] = [.compact, .python, .indented]
  let text = value.text(layouts[Int(input.choice) % layouts.count])
  expect((try? JSON.parse(text)) == value, "written and read again, a value is the same")
}

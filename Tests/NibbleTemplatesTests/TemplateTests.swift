import NibbleCore
import NibbleTemplates
import Testing

@Test func hello() throws { #expect(try Template("Hello {{ x }}", name: "t").render([("x", "you")]).text == "Hello you") }

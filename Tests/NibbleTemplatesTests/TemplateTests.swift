import Foundation
import NibbleCore
import NibbleTemplates
import TestSupport
import Testing

/// Rows of a file of cases.
private func rows(_ name: String) throws -> [JSON] {
  let text = String(decoding: try bytes(of: fixture("templates/\(name)")), as: UTF8.self)
  return try text.split(separator: "\n").map { try JSON.parse(String($0)) }
}

private func rendered(_ source: String, _ context: JSON = [:], _ whitespace: Template.Whitespace = .chat) throws -> Template.Rendering {
  try Template(source, name: "test", whitespace: whitespace).render(context.members ?? [])
}

@Suite("chat templates: the language")
struct TemplateTests {
  @Test("the conformance cases of huggingface.js, llama.cpp and minja")
  func conformance() throws {
    let cases = try rows("conformance.jsonl")
    #expect(cases.count == 271)
    for row in cases {
      let whitespace = Template.Whitespace(
        trimsBlocks: row["trim_blocks"]?.bool ?? false, stripsBlocks: row["lstrip_blocks"]?.bool ?? false)
      let name = "\(row["suite"]?.string ?? ""): \(row["name"]?.string ?? "")"
      #expect(throws: Never.self, "\(name)") {
        let text = try rendered(row["template"]?.string ?? "", row["context"] ?? [:], whitespace).text
        #expect(JSON(text) == row["expected"], "\(name)")
      }
    }
  }

  @Test("drawn templates give what Jinja gives, or fail where it fails")
  func drawn() throws {
    let context = try JSON.parse(bytes(of: fixture("templates/context.json")))
    for row in try rows("drawn.jsonl") {
      let source = row["template"]?.string ?? ""
      let text = try? rendered(source, context).text
      #expect((text.map { JSON($0) } ?? .null) == row["expected"], "\(source)")
    }
  }

  @Test(
    "an error names template, line and reason",
    arguments: [
      ("a\n{{ x.y }}", 2, "'x' is undefined"), ("{% if a %}", 1, "'elif', 'else', 'endif'"), ("\n\n{% foo %}", 3, "unknown tag 'foo'"),
      ("{{ 1 +\n\n }}", 3, "expected an expression"), ("{{ 'a' | nosuch }}", 1, "no filter named 'nosuch'"),
      ("{% for i in [1] %}\n{{ {}.a.b }}{% endfor %}", 2, "'dict object' has no attribute 'a'"),
      ("{{ raise_exception('Roles must alternate') }}", 1, "Roles must alternate"), ("{{ 1 / 0 }}", 1, "division by zero"),
      ("{% include 'x' %}", 1, "a chat template has none"), ("{{ [].append(1) }}", 1, "unsafe"), ("{{ 9223372036854775807 + 1 }}", 1, "64 bits"),
      ("{{ 12345678901234567890 }}", 1, "64 bits"), ("{% break %}", 1, "outside of a loop"), ("{{ 'x' }", 1, "unexpected '}'"),
    ])
  func errors(_ source: String, _ line: Int, _ reason: String) throws {
    let error = #expect(throws: NibbleError.self) { try rendered(source) }
    #expect(error?.kind == .badInput)
    #expect(error?.message.hasPrefix("test:\(line): ") == true && error?.message.contains(reason) == true, "\(error?.message ?? "")")
  }

  @Test(
    "limits end a template that would use up time or memory",
    arguments: [
      "{% for i in range(1000000000) %}{% endfor %}", "{{ 'a' * 1000000000000 }}", "{{ [0] * 1000000000 }}",
      "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% set ns = namespace(x=1) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(9999) %}{% set ns.x = ns.x | map('string') %}{% endfor %}{{ ns.x | list }}",
      "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "{{ '%1000000000d' % 1 }}", "{{ '{:1000000000}'.format(1) }}",
      "{{ 'x' | center(100000000000) }}", "{{ 2 ** 100000 }}", "{{ 'a,' * 9000000 | string | replace(',', 'bbbbbbbb' * 99) }}",
      "{{ range(3) | batch(10000000000, 0) | list }}", "{{ [1] | slice(100000000000) | list }}", "{{ 'ab' | indent(1000000000) }}",
      "{{ {'a': [1]} | tojson(indent=1000000000) }}", "{{ 1.5 | round(100000) }}", "{{ 'x'.zfill(99999999999) }}",
    ])
  func limits(_ source: String) {
    let error = #expect(throws: NibbleError.self) { try rendered(source) }
    #expect(error?.kind == .badInput)
  }

  @Test("what is nested deep is refused or rendered, and never ends the program", arguments: ["(", "[", "{0:", "-", "not ", "a(", "a[", "a|d("])
  func nesting(_ opening: String) {
    for depth in [10, 90, 200, 20_000] {
      _ = try? rendered("{{ " + String(repeating: opening, count: depth) + "1")
    }
    _ = try? rendered("{{ 1" + String(repeating: " + 1", count: 20_000) + " }}")
    _ = try? rendered("{{ a" + String(repeating: ".a", count: 20_000) + " }}")
    _ = try? rendered("{{ a" + String(repeating: "|string", count: 20_000) + " }}")
    _ = try? rendered(String(repeating: "{% if 1 %}", count: 20_000))
  }

  @Test("many macros that hold each other are let go of")
  func chains() throws {
    let source = """
      {% set ns = namespace(f=none) %}{% for i in range(50000) %}{% set f = ns.f %}{% macro m() %}{{ f }}{% endmacro %}\
      {% set ns.f = m %}{% endfor %}{{ ns.f is callable }}
      """
    #expect(try rendered(source).text == "True")
  }

  @Test("the clock is the caller's")
  func clock() throws {
    let template = try Template("{{ strftime_now('%Y') }}{{ strftime_now('') }}", name: "test")
    #expect(try template.render([], now: 1_700_000_000).text == "2023")
  }

  @Test("marks of {% generation %} are places in the output")
  func generation() throws {
    let source = "{% for m in ms %}é{% generation %}<{{ m }}>{% endgeneration %}{% endfor %}"
    let found = try rendered(source, ["ms": ["a", "🦙"]])
    #expect(found.text == "é<a>é<🦙>" && found.generated == [1..<4, 5..<8])
  }
}

import NibblePlots

/// A page that needs nothing but itself: no network, no script. Light or dark as the reader's system is, wide tables scroll.
package struct HTMLPage {
  private let title: String
  private var body: [String] = []

  package init(_ title: String) { self.title = title }

  package mutating func add(_ element: String) { body.append(element) }

  package mutating func heading(_ level: Int, _ text: String) { add("<h\(level)>\(SVG.escaped(text))</h\(level)>") }

  package mutating func paragraph(_ text: String, style: String = "") {
    add("<p\(style.isEmpty ? "" : " class=\"\(style)\"")>\(SVG.escaped(text))</p>")
  }

  /// - Parameter texts: how many columns at the left are text; the others are numbers
  package mutating func table(_ head: [String], _ rows: [[String]], texts: Int) {
    func cells(_ tag: String, _ row: [String]) -> String {
      row.enumerated().map { "<\(tag)\($0 < texts ? "" : " class=\"n\"")>\(SVG.escaped($1))</\(tag)>" }.joined()
    }
    add("<div class=\"wide\"><table>\n<thead><tr>\(cells("th", head))</tr></thead>\n<tbody>")
    for row in rows { add("<tr>\(cells("td", row))</tr>") }
    add("</tbody></table></div>")
  }

  package mutating func pictures(_ plots: [Plot]) {
    guard !plots.isEmpty else { return }
    add("<div class=\"plots\">")
    for plot in plots { add("<img alt=\"\(SVG.escaped(plot.title))\" src=\"data:image/svg+xml;base64,\(Self.base64(plot.svg))\">") }
    add("</div>")
  }

  package mutating func folded(_ summary: String, _ text: String) {
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map { SVG.escaped(String($0)) }.joined(separator: "\n")
    add("<details><summary>\(SVG.escaped(summary))</summary><pre>\(lines)</pre></details>")
  }

  package mutating func list(_ items: [String], style: String = "") {
    add("<ul\(style.isEmpty ? "" : " class=\"\(style)\"")>" + items.map { "<li>\(SVG.escaped($0))</li>" }.joined() + "</ul>")
  }

  package var text: String {
    """
    <!DOCTYPE html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
    <title>\(SVG.escaped(title))</title>
    <style>
    :root { color-scheme: light dark }
    body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: #ffffff; color: #1b2126; font: 16px/1.5 system-ui, "Helvetica Neue", Arial, sans-serif }
    h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.5rem 0 } h2 { font-size: 1.25rem; margin: 2rem 0 0.5rem } h3 { font-size: 1.05rem; margin: 1.5rem 0 0.5rem }
    p, li { overflow-wrap: anywhere } .soft { color: #4a5259; font-size: 0.9rem } .bad { color: #a61b1b }
    .wide { overflow-x: auto; margin: 0.75rem 0 } table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums }
    th, td { padding: 0.35rem 0.7rem; text-align: left; border-bottom: 1px solid #d0d5da; vertical-align: top; white-space: nowrap }
    tbody tr:nth-child(even), pre { background: #f4f6f8 } .n { text-align: right }
    .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; align-items: start; margin: 1rem 0 }
    img { width: 100%; max-width: 34rem; height: auto; border: 1px solid #d0d5da; border-radius: 8px; box-sizing: border-box }
    details { margin: 0.5rem 0 } summary { cursor: pointer } pre { overflow-x: auto; padding: 0.75rem; border-radius: 6px; font-size: 0.8rem; line-height: 1.45 }
    @media (prefers-color-scheme: dark) {
    body { background: #16191c; color: #e8ecef } .soft { color: #b4bcc4 } .bad { color: #ff8a80 } th, td, img { border-color: #33393f }
    tbody tr:nth-child(even), pre { background: #1e2327 }
    }
    </style>
    </head>
    <body>

    """ + body.joined(separator: "\n") + "\n</body>\n</html>\n"
  }

  private static func base64(_ text: String) -> String {
    let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    let bytes = Array(text.utf8)
    var out: [UInt8] = []
    out.reserveCapacity(bytes.count / 3 * 4 + 4)
    for start in stride(from: 0, to: bytes.count, by: 3) {
      let left = min(3, bytes.count - start)
      var word = 0
      for place in 0..<3 { word = word << 8 | (place < left ? Int(bytes[start + place]) : 0) }
      for place in 0..<4 { out.append(place <= left ? digits[word >> (18 - 6 * place) & 63] : UInt8(ascii: "=")) }
    }
    return String(decoding: out, as: UTF8.self)
  }
}

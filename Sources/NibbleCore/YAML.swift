import CYAML

/// A YAML document of texts, lists and mappings: what a file of options needs. Read by libyaml, which the Swift package
/// for YAML wraps too, at the price of all of Foundation.
package indirect enum YAML: Sendable {
  case scalar(String)
  case sequence([YAML])
  /// In the order of the file.
  case mapping([Entry])

  /// A key with what stands behind it.
  package struct Entry: Sendable {
    package let key: String
    package let value: YAML
    /// The line of the key, from 1.
    package let line: Int

    package init(key: String, value: YAML, line: Int) { (self.key, self.value, self.line) = (key, value, line) }
  }

  private static let maximumDepth = 16

  /// Parses one document; nil if there is nothing in it.
  ///
  /// Aliases are refused: a few lines of them stand for a million.
  ///
  /// - Throws: `.usage` naming `place` and line
  package static func parse(_ text: String, place: String) throws -> YAML? {
    let parser = UnsafeMutablePointer<yaml_parser_t>.allocate(capacity: 1)
    defer { parser.deallocate() }
    guard yaml_parser_initialize(parser) != 0 else { throw NibbleError(.failed, "\(path: place): out of memory") }
    defer { yaml_parser_delete(parser) }
    let bytes = Array(text.utf8)
    return try bytes.withUnsafeBufferPointer { buffer in
      yaml_parser_set_input_string(parser, buffer.baseAddress, buffer.count)
      yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
      var events = Events(parser: parser, place: place)
      var document: YAML?
      while true {
        let event = try events.next()
        switch event {
        case .end: return document
        case .other: continue
        default:
          guard document == nil else { throw events.fail("more than one document") }
          document = try node(event, &events, depth: 0)
        }
      }
    }
  }

  private static func node(_ event: Event, _ events: inout Events, depth: Int) throws -> YAML {
    guard depth < maximumDepth else { throw events.fail("nested deeper than \(maximumDepth) levels") }
    switch event {
    case .scalar(let text): return .scalar(text)
    case .sequenceStart:
      var list: [YAML] = []
      while true {
        let next = try events.next()
        if case .sequenceEnd = next { return .sequence(list) }
        list.append(try node(next, &events, depth: depth + 1))
      }
    case .mappingStart:
      var entries: [Entry] = []
      var keys: Set<ByteName> = []
      while true {
        let next = try events.next()
        if case .mappingEnd = next { return .mapping(entries) }
        guard case .scalar(let key) = next, !key.isEmpty else { throw events.fail("a key that is no text") }
        guard keys.insert(ByteName(key)).inserted else { throw events.fail("key \(subject: key) twice") }
        let line = events.line
        entries.append(Entry(key: key, value: try node(try events.next(), &events, depth: depth + 1), line: line))
      }
    default: throw events.fail("an alias or another thing that is neither text, list nor mapping")
    }
  }

  private enum Event { case scalar(String), sequenceStart, sequenceEnd, mappingStart, mappingEnd, alias, other, end }

  /// libyaml's events, one after another.
  private struct Events {
    let parser: UnsafeMutablePointer<yaml_parser_t>
    let place: String
    /// Where the last event begins.
    private(set) var line = 1

    init(parser: UnsafeMutablePointer<yaml_parser_t>, place: String) { (self.parser, self.place) = (parser, place) }

    func fail(_ reason: MessageText) -> NibbleError {
      .usage("\(path: place): line \(parser.pointee.mark.line + 1): \(reason)")
    }

    mutating func next() throws -> Event {
      var event = yaml_event_t()
      guard yaml_parser_parse(parser, &event) != 0 else {
        throw fail("no YAML: \(parser.pointee.problem.map { String(cString: $0) } ?? "unreadable")")
      }
      defer { yaml_event_delete(&event) }
      line = Int(clamping: event.start_mark.line) + 1
      switch event.type {
      case YAML_SCALAR_EVENT:
        let scalar = event.data.scalar
        return .scalar(String(decoding: UnsafeBufferPointer(start: scalar.value, count: scalar.length), as: UTF8.self))
      case YAML_SEQUENCE_START_EVENT: return .sequenceStart
      case YAML_SEQUENCE_END_EVENT: return .sequenceEnd
      case YAML_MAPPING_START_EVENT: return .mappingStart
      case YAML_MAPPING_END_EVENT: return .mappingEnd
      case YAML_ALIAS_EVENT: return .alias
      case YAML_STREAM_END_EVENT: return .end
      default: return .other
      }
    }
  }
}

import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

extension Model {
  /// Fits an adapter to this base: every tensor of it finds its place, or nothing is attached. Only what it changes in parts that no text passes through
  /// is left out.
  ///
  /// - Throws: `.adapterMismatch` listing what matches nothing, or the first thing of a wrong shape
  package func attach(_ given: AdapterFile, name: String) throws -> AttachedAdapter {
    var file = try given.fittingExperts(of: checkpoint).ofTexts(on: checkpoint)
    let linears = linears
    let embeddings = embeddings
    let modules = ModuleNames(linears.map(\.name) + embeddings.map(\.name), of: checkpoint)
    let parameters = ModuleNames(parameterNames, of: checkpoint)
    try file.checkLayers(of: checkpoint)
    try file.checkEverythingMatches(modules, parameters, of: path)
    try file.checkSavedModules(parameterNames, of: path)
    file = try withShared(file, modules).withoutUnchanged(checkpoint)
    let vectors: [ParameterID: FloatStore]
    var matrices: [ParameterID: Matrix]
    (vectors, matrices) = try replacements(file, parameters)
    var methods: [ParameterID: any AdapterMethod] = [:]
    var tables: [ParameterID: any AdapterMethod] = [:]
    for fitted in try fitted(file, modules) {
      switch fitted.place {
      case .layer(let index):
        let layer = linears[index]
        methods[layer.id] = try file.method(of: fitted.module, weight: matrices[layer.id] ?? layer.matrix, engine)
      case .table(let index):
        let table = embeddings[index]
        tables[table.id] = try file.method(of: fitted.module, weight: (matrices[table.id] ?? table.matrix).turned, engine)
      }
    }
    let rows = try tokenRows(file, methods, &matrices)
    if let table = splitTable, tables[table.id] != nil || rows[table.id] != nil || matrices[table.id] != nil {
      throw file.mismatch(table.name, Self.splitReason)
    }
    return AttachedAdapter(name: name, methods: methods, tables: tables, vectors: vectors, matrices: matrices, rows: rows)
  }

  /// The table of tokens, where an encoder and a decoder have a module each that looks it up: PEFT's adapters of the table change neither of
  /// these until they are merged.
  package var splitTable: Embedding? { answersPrompts ? tokenEmbedding : nil }

  package static let splitReason: MessageText = "is looked up by two modules, the encoder's and the decoder's; changes of it are not implemented"

  /// An adapter with the numbers that its modules share.
  package func withShared(_ file: AdapterFile, _ names: ModuleNames) throws -> AdapterFile {
    let linears = linears
    return try file.withShared(names) { $0 < linears.count ? (linears[$0].inputs, linears[$0].outputs) : nil }
  }

  /// The places of an adapter's modules, by the names of layers and then of embeddings.
  package func fitted(_ file: AdapterFile, _ names: ModuleNames) throws -> [FittedModule] {
    try file.fitted(
      names, layers: linears.map { FittingSize(input: $0.window ?? [$0.inputs], outputs: $0.outputs, isInputsFirst: $0.isConv1D) },
      tables: embeddings.map { FittingSize(input: [$0.count], outputs: $0.width, isInputsFirst: true) })
  }

  // MARK: Parameters trained whole

  private func replacements(
    _ file: AdapterFile, _ parameters: ModuleNames
  ) throws -> (vectors: [ParameterID: FloatStore], matrices: [ParameterID: Matrix]) {
    var vectors: [ParameterID: FloatStore] = [:]
    var matrices: [ParameterID: Matrix] = [:]
    let shapes = parameterShapes
    let given = file.replacements.compactMap { parameters.index(of: $0.name) }
    for (name, tensor) in file.replacements {
      guard let id = parameters.index(of: name).map({ own($0, given: given) }) else { continue }
      guard let shape = shapes[id] else { throw file.mismatch(name, "is replaced, which is implemented for merging only") }
      guard tensor.shape == shape.dimensions else {
        throw NibbleError(
          .adapterMismatch,
          "\(path: file.path): \(tensor: tensor.name.text) has shape \(tensor.shape), the base's \(shape.dimensions)")
      }
      try file.checkFinite(tensor)
      if shape.dimensions.count == 1 {
        vectors[id] = FloatStore(try file.mapped.floats(tensor))
      } else {
        matrices[id] = try Matrix(tensor, of: file.mapped, isTransposed: shape.isConv1D, flattens: true)
      }
    }
    return (vectors, matrices)
  }

  // MARK: Rows of tokens

  /// Rows of tables and of a language head. A head that shares the embedding's weight shares its rows, and what replaces that weight whole
  /// where the adapter says so. PEFT trains rows for both where the configuration ties them, though the file may have a weight for each.
  ///
  /// - Parameter matrices: gets the weight of a head that has factors, too: rows are under these
  private func tokenRows(
    _ file: AdapterFile, _ methods: [ParameterID: any AdapterMethod], _ matrices: inout [ParameterID: Matrix]
  ) throws -> [ParameterID: TokenRows] {
    var rows: [ParameterID: TokenRows] = [:]
    func put(_ own: AdapterFile.TokenRows, _ table: Embedding) throws {
      guard matrices[table.id] == nil, rows[table.id] == nil else { throw file.mismatch(own.path, "is replaced whole and by rows, or twice by rows") }
      guard own.values.shape[1] == table.width, own.tokens.allSatisfy({ $0 < table.count }) else {
        throw file.mismatch(own.path, "has rows of shape \(own.values.shape) for a table of \(table.count) rows of \(table.width)")
      }
      try file.checkFinite(own.values)
      let values = FloatStore(try file.mapped.floats(own.values))
      guard methods[table.id] == nil else {
        matrices[table.id] = table.matrix.replacing(own.tokens, by: values)
        return
      }
      rows[table.id] = TokenRows(values, Matrix(values, rows: own.tokens.count, columns: table.width), tokens: own.tokens)
    }
    let tables = embeddings + (headTable.map { [$0] } ?? [])
    for own in file.tokenRows {
      guard let table = tables.first(where: { ModuleNames([$0.name], of: checkpoint).index(of: own.path) != nil }) else {
        throw file.mismatch(own.path, "is no embedding and no language head here, and rows of nothing else can be used without merging")
      }
      try put(own, table)
    }
    guard let head = head.vocabulary, let tokens = tokenEmbedding, matrices[head.id] == nil, rows[head.id] == nil else { return rows }
    let names = ModuleNames([tokens.name]), shared = file.tokenRows.first { names.index(of: $0.path) != nil }
    let isShared = head.matrix.native.data == tokens.matrix.native.data
    if isShared, shared == nil, file.config.tiesReplacedEmbedding || embeddingScorer != nil { matrices[head.id] = matrices[tokens.id] }
    if let shared, let table = headTable, isShared || checkpoint.tiedHeadName != nil { try put(shared, table) }
    return rows
  }

  /// Layers the adapter changes to no effect: nothing a pass gives depends on them.
  package func idleModules(of adapter: AttachedAdapter) -> [String] {
    network.parts.idle.filter { adapter.methods[$0.id] != nil || adapter.matrices[$0.id] != nil }.map(\.name)
  }

  /// Shapes of parameters as their modules hold them.
  private var parameterShapes: [ParameterID: (dimensions: [Int], isConv1D: Bool)] {
    var shapes: [ParameterID: (dimensions: [Int], isConv1D: Bool)] = [:]
    func add(_ vector: Vector?) { if let vector { shapes[vector.id] = ([vector.values.values.count], false) } }
    for linear in linears {
      shapes[linear.id] = (linear.shape, linear.isConv1D)
      add(linear.bias)
    }
    if case .masked(let head) = head {
      add(head.output.bias)
      add(head.idleBias)
      if let other = head.otherBias, let bias = head.output.bias { shapes[other] = ([bias.values.values.count], false) }
    }
    for table in embeddings { shapes[table.id] = ([table.count, table.width], false) }
    for norm in norms {
      add(norm.weight)
      add(norm.bias)
    }
    for vector in network.parts.statistics { add(vector) }
    return shapes
  }
}

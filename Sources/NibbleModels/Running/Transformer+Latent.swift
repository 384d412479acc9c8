import NibbleCompute
import NibbleCore

/// What the projections of latent attention leave for their way back: latents before and behind their norms, [rows, size] each.
final class LatentTape {
  let queryBefore, query, keyValueBefore, keyValue: FloatStore

  /// Room for those of each of several layers.
  init?(_ layers: [LayerWeights], rows: Int) {
    let latents = layers.compactMap(\.latent)
    guard !latents.isEmpty else { return nil }
    let queries = rows * (latents.map { $0.queryLatent?.size ?? 0 }.max() ?? 0)
    let keys = rows * (latents.map(\.keyValueLatent.size).max() ?? 0)
    (queryBefore, query) = (FloatStore(count: queries), FloatStore(count: queries))
    (keyValueBefore, keyValue) = (FloatStore(count: keys), FloatStore(count: keys))
  }
}

/// What a pass has of its tokens before keys and values are made of it.
struct KeyLatents {
  /// Behind their norm, one token's after another's.
  var latents: UnsafePointer<Float>
  /// What heads share of their keys, turned, `stride` floats from one token's to the next.
  var shared: UnsafePointer<Float>
  var stride: Int
}

/// Queries, keys and values of latent attention.
extension Transformer {
  /// Numbers of a key that are turned, which its heads share.
  var turned: Int { shape.headSize - shape.unturned }

  /// Queries, turned, in rows of queries, keys and values, and of keys and values what they are made of.
  ///
  /// - Parameter input: what the layer takes
  func project(
    _ index: Int, _ latent: LatentProjections, _ runs: [TokenRun], _ layers: Layers, _ rows: Int, _ input: Floats, to queryKeyValue: Floats,
    _ tape: LayerTape?
  ) -> KeyLatents {
    let (queryWidth, stride, narrow) = (shape.queryWidth, shape.attentionWidth, latent.keyValueLatent.down.outputs)
    let queries = floats(Slot.queries, rows * queryWidth), keys = floats(Slot.keysNarrow, rows * narrow)
    var asking = input
    if let own = latent.queryLatent {
      asking = tape?.latent?.query.start ?? floats(Slot.queryLatents, rows * own.size)
      let before = tape?.latent?.queryBefore.start ?? asking
      layers.linear([own.down], input, rows: 0..<rows, before, tape?.linear)
      norm(own, layers, before, rows, to: asking)
    }
    layers.linear([latent.query], asking, rows: 0..<rows, queries, tape?.linear)
    layers.linear([latent.keyValueLatent.down], input, rows: 0..<rows, keys, tape?.linear)
    let size = latent.keyValueLatent.size
    let latents = tape?.latent?.keyValue.start ?? floats(Slot.keyLatents, rows * size), before = tape?.latent?.keyValueBefore.start ?? latents
    for row in 0..<rows { (before + row * size).update(from: keys + row * narrow, count: size) }
    norm(latent.keyValueLatent, layers, before, rows, to: latents)
    for row in 0..<rows { (queryKeyValue + row * stride).update(from: queries + row * queryWidth, count: queryWidth) }
    rotate(index, runs, queryKeyValue + shape.unturned, heads: shape.heads, apart: shape.headSize, stride: stride)
    rotate(index, runs, keys + size, heads: 1, apart: 0, stride: narrow)
    return KeyLatents(latents: latents, shared: keys + size, stride: narrow)
  }

  /// Keys, turned, and values of every token.
  func expand(
    _ latent: LatentProjections, _ own: KeyLatents, _ layers: Layers, _ rows: Int, to queryKeyValue: Floats, _ tape: LayerTape?
  ) {
    let stride = shape.attentionWidth, expanded = floats(Slot.expanded, rows * latent.keyValue.outputs)
    layers.linear([latent.keyValue], own.latents, rows: 0..<rows, expanded, tape?.linear)
    engine.team.split(rows, grain: layers.grain(stride)) { part, _ in
      for row in part {
        eachHead(expanded + row * latent.keyValue.outputs, queryKeyValue + row * stride) { head, key, value in
          key.update(from: head, count: shape.unturned)
          (key + shape.unturned).update(from: own.shared + row * own.stride, count: turned)
          value.update(from: head + shape.unturned, count: shape.valueSize)
        }
      }
    }
  }

  /// Hands out of each head what its token's latent was expanded to, its key and its value, in one row.
  private func eachHead(_ expanded: Floats, _ queryKeyValue: Floats, _ body: (_ own: Floats, _ key: Floats, _ value: Floats) -> Void) {
    let keys = queryKeyValue + shape.queryWidth, values = keys + shape.keyWidth
    let (keySize, valueSize) = (shape.headSize, shape.valueSize)
    for head in 0..<shape.heads { body(expanded + head * (shape.unturned + valueSize), keys + head * keySize, values + head * valueSize) }
  }

  private func lie(_ latent: LatentProjections.Latent) -> NormRows {
    NormRows(count: latent.size, groups: 1, stride: latent.size, epsilon: LatentProjections.epsilon)
  }

  private func norm(_ latent: LatentProjections.Latent, _ layers: Layers, _ x: Floats, _ rows: Int, to out: Floats) {
    layers.norm(latent.norm, shape, x, rows: 0..<rows, out, lie(latent))
  }

  /// The way back from the gradient of queries, keys and values before they were turned.
  ///
  /// - Parameters:
  ///   - input: what the layer took
  ///   - dx: gets the gradient of that; nil where nobody needs it
  func projectBack(
    _ latent: LatentProjections, _ layers: Layers, _ rows: Int, _ input: Floats, _ gradient: Floats, _ tape: LayerTape, dx: Floats?,
    _ gradients: Gradients
  ) {
    guard let own = tape.latent else { return }
    let (queryWidth, stride, narrow) = (shape.queryWidth, shape.attentionWidth, latent.keyValueLatent.down.outputs)
    let size = latent.keyValueLatent.size
    let dQueries = floats(Slot.queries, rows * queryWidth), dKeys = floats(Slot.keysNarrow, rows * narrow)
    let dExpanded = floats(Slot.expanded, rows * latent.keyValue.outputs)
    engine.team.split(rows, grain: layers.grain(stride)) { part, _ in
      for row in part {
        (dQueries + row * queryWidth).update(from: gradient + row * stride, count: queryWidth)
        let dShared = dKeys + row * narrow + size
        dShared.update(repeating: 0, count: turned)
        eachHead(dExpanded + row * latent.keyValue.outputs, gradient + row * stride) { own, key, value in
          own.update(from: key, count: shape.unturned)
          LayerKernels.add(key + shape.unturned, count: turned, to: dShared)
          (own + shape.unturned).update(from: value, count: shape.valueSize)
        }
      }
    }
    let dLatents = floats(Slot.keyLatents, rows * size)
    layers.linearBack([latent.keyValue], own.keyValue.start, rows: rows, dExpanded, dx: dLatents, tape.linear, gradients)
    normBack(latent.keyValueLatent, layers, dLatents, own.keyValueBefore.start, rows, gradients)
    for row in 0..<rows { (dKeys + row * narrow).update(from: dLatents + row * size, count: size) }
    layers.linearBack([latent.keyValueLatent.down], input, rows: rows, dKeys, dx: dx, tape.linear, gradients)
    let part = dx.map { _ in floats(Slot.latentGradient, rows * shape.width) }
    if let asking = latent.queryLatent {
      let dAsking = floats(Slot.queryLatents, rows * asking.size)
      layers.linearBack([latent.query], own.query.start, rows: rows, dQueries, dx: dAsking, tape.linear, gradients)
      normBack(asking, layers, dAsking, own.queryBefore.start, rows, gradients)
      layers.linearBack([asking.down], input, rows: rows, dAsking, dx: part, tape.linear, gradients)
    } else {
      layers.linearBack([latent.query], input, rows: rows, dQueries, dx: part, tape.linear, gradients)
    }
    if let dx, let part { layers.add(part, to: dx, rows: rows, width: shape.width) }
  }

  private func normBack(_ latent: LatentProjections.Latent, _ layers: Layers, _ gradient: Floats, _ x: Floats, _ rows: Int, _ gradients: Gradients) {
    layers.normBack(latent.norm, shape, gradient, x, rows: rows, gradient, gradients, lie(latent))
  }
}

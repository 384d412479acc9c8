import NibbleCore

extension Checkpoint {
  /// The same with tensors that are not its own, and do not count for its identity.
  package func adding(_ more: [StoredTensor]) -> Checkpoint {
    var all = self
    all.tensors += more
    all.added.formUnion(more.map(\.name))
    all.addFiles(of: more)
    all.sortTensors()
    return all
  }

  private mutating func addFiles(of more: [StoredTensor]) {
    for section in more.flatMap(\.sections) {
      if case .file(let file, _) = section.source, !files.contains(where: { $0 === file }) { files.append(file) }
    }
  }

  /// The same with other values for some of its tensors.
  ///
  /// - Parameter identity: what it claims to be; nil for what it claims already
  package func replacing(_ other: [StoredTensor], identity: Digest128?) -> Checkpoint {
    var all = self
    let names = Set(other.map(\.name))
    all.tensors = tensors.filter { !names.contains($0.name) } + other
    all.addFiles(of: other)
    all.sortTensors()
    all.claimedIdentity = identity ?? claimedIdentity
    return all
  }

  /// The same with the tensors of layers in another order.
  ///
  /// - Parameters:
  ///   - layers: of what is stored, one after another in what this is
  ///   - identity: what it claims to be
  package func with(tensors: [StoredTensor], ofLayers layers: [Range<Int>], identity: Digest128?) -> Checkpoint {
    var all = self
    (all.tensors, all.layerReplication, all.claimedIdentity) = (tensors, layers, identity)
    all.sortTensors()
    return all
  }

  /// The same with other names for its tensors.
  package func renamed(_ name: (ByteName) -> ByteName) -> Checkpoint {
    var other = self
    for index in other.tensors.indices { other.tensors[index].name = name(tensors[index].name) }
    other.sortTensors()
    return other
  }

  /// The same with another configuration.
  package func with(config: JSON) -> Checkpoint {
    var other = self
    other.config = config
    other.smallFiles = smallFiles.map {
      $0.name == "config.json" ? SmallFile(name: $0.name, section: StoredSection(.file, bytes: config.fileBytes)) : $0
    }
    return other
  }
}

extension String {
  /// A path without the slashes at its end; the root stays.
  package var withoutTrailingSlashes: String {
    var path = self[...]
    while path.utf8.count > 1, path.hasSuffix("/") { path.removeLast() }
    return String(path)
  }
}

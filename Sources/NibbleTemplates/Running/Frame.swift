/// Variables of one scope: a template, a turn of a loop, a macro's call.
final class Frame {
  private var variables: [(name: Text, value: Value)]
  let parent: Frame?

  init(parent: Frame?, _ variables: [(name: Text, value: Value)] = []) { (self.parent, self.variables) = (parent, variables) }

  /// What a name stands for here.
  func value(_ name: Text) -> Value? {
    var frame: Frame? = self
    while let scope = frame {
      // Scopes are small, and names differ by their lengths most of the time.
      for variable in scope.variables where variable.name == name { return variable.value }
      frame = scope.parent
    }
    return nil
  }

  /// Assigns in this scope; outer variables of the name stay as they are.
  func set(_ name: Text, _ value: Value) {
    for index in variables.indices where variables[index].name == name { return variables[index].value = value }
    variables.append((name, value))
  }

  /// Forgets everything, which breaks the cycle of a scope and the macros defined in it.
  func clear() { variables = [] }
}

import NibbleCore
import NibbleFormats

// Opens the checkpoint at each path of standard input, and says of each "ok" or why it is refused: for tests that ask of a
// hundred thousand files, which is too many programs to start.
while let path = readLine() {
  do {
    _ = try Checkpoint.open(path)
    print("ok")
  } catch let error as NibbleError {
    print(oneLine(error.message))
  }
}

import ArgumentParser
import Glibc
import NibbleCore

// Not `@main`: the parser's own errors become one line and exit code 2, like every other error here.
Interrupt.watch()
MappedFile.watch()
exit(Nibble.runMapped(Array(CommandLine.arguments.dropFirst())))

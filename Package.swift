// swift-tools-version: 6.1
import PackageDescription

// Debian packages behind the system libraries are named once, in tools/packages.
let package = Package(
  name: "nibble",
  products: [
    .executable(name: "nibble", targets: ["nibble"]),
    .library(name: "NibbleFormats", targets: ["NibbleFormats", "NibbleQuant", "NibbleCore"]),
  ],
  dependencies: [
    // The command line: parsing, help, completion scripts.
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0")
  ],
  targets: [
    .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
    .systemLibrary(name: "CXXHash", pkgConfig: "libxxhash", providers: [.apt(["libxxhash-dev"])]),
    .systemLibrary(name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),
    .systemLibrary(name: "CPCRE2", pkgConfig: "libpcre2-8", providers: [.apt(["libpcre2-dev"])]),
    .systemLibrary(name: "CYAML", pkgConfig: "yaml-0.1", providers: [.apt(["libyaml-dev"])]),
    .target(name: "CNibbleKernels"),
    .target(name: "CNibbleSystem"),
    .target(name: "NibbleCore", dependencies: ["CNibbleSystem", "CXXHash", "CPCRE2", "CYAML", "CZstd"]),
    .target(name: "NibbleQuant", dependencies: ["NibbleCore", "CNibbleKernels"]),
    .target(name: "NibbleCompute", dependencies: ["NibbleCore", "NibbleQuant", "CNibbleKernels"]),
    .target(name: "NibbleFormats", dependencies: ["NibbleCore", "NibbleQuant"]),
    .executableTarget(
      name: "nibble",
      dependencies: [
        "NibbleCore", "NibbleQuant", "NibbleFormats",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ]),
    .executableTarget(
      name: "KernelBench", dependencies: ["NibbleCompute", "NibbleCore", "NibbleQuant", "COpenBLAS"], path: "tools/KernelBench"),
    .target(name: "TestSupport", dependencies: ["NibbleCore", "NibbleFormats"], path: "Tests/TestSupport"),
    .testTarget(name: "NibbleCoreTests", dependencies: ["NibbleCore", "TestSupport"]),
    .testTarget(name: "NibbleQuantTests", dependencies: ["NibbleQuant", "TestSupport"]),
    .testTarget(name: "NibbleComputeTests", dependencies: ["NibbleCompute", "NibbleQuant", "TestSupport"]),
    .testTarget(name: "NibbleFormatsTests", dependencies: ["NibbleFormats", "TestSupport"]),
    .testTarget(name: "CommandTests", dependencies: ["nibble", "TestSupport"], exclude: ["faults.c"]),
  ]
)

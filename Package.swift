// swift-tools-version: 6.1
import PackageDescription

// Debian packages behind the system libraries are named once, in tools/packages.
let package = Package(
  name: "nibble",
  products: [
    .executable(name: "nibble", targets: ["nibble"]),
    .library(name: "NibbleFormats", targets: ["NibbleFormats", "NibbleQuant", "NibbleCore"]),
    .library(name: "NibbleAdapters", targets: ["NibbleAdapters", "NibbleFormats", "NibbleCore"]),
    .library(name: "NibbleModels", targets: ["NibbleModels", "NibbleCompute", "NibbleCore"]),
    .library(name: "NibbleTokenizers", targets: ["NibbleTokenizers", "NibbleCore"]),
    .library(name: "NibbleTemplates", targets: ["NibbleTemplates", "NibbleCore"]),
    .library(name: "NibbleTraining", targets: ["NibbleTraining", "NibbleModels", "NibbleCore"]),
    .library(name: "NibbleEvaluation", targets: ["NibbleEvaluation", "NibbleModels", "NibbleCore"]),
    .library(name: "NibbleCalibration", targets: ["NibbleCalibration", "NibbleModels", "NibbleCore"]),
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
    .systemLibrary(name: "CEdit", pkgConfig: "libedit", providers: [.apt(["libedit-dev"])]),
    // pkg-config names a define beside the library, which the package manager does not let through.
    .systemLibrary(name: "CUTF8Proc", providers: [.apt(["libutf8proc-dev"])]),
    .target(name: "CNibbleKernels"),
    .target(name: "CNibbleSystem"),
    // Errors of both libraries are jumps, which C has to catch.
    .target(name: "CNibbleImages", linkerSettings: [.linkedLibrary("png"), .linkedLibrary("jpeg")]),
    // Not by pkg-config, whose answer links the trainer too.
    .target(name: "CNibbleSentencePiece", linkerSettings: [.linkedLibrary("sentencepiece")]),
    .target(name: "NibbleCore", dependencies: ["CNibbleSystem", "CXXHash", "CPCRE2", "CYAML", "CZstd"]),
    .target(name: "NibbleImages", dependencies: ["NibbleCore", "CNibbleImages"]),
    .target(name: "NibblePlots", dependencies: ["NibbleCore"]),
    .target(name: "NibbleQuant", dependencies: ["NibbleCore", "CNibbleKernels"]),
    .target(name: "NibbleCompute", dependencies: ["NibbleCore", "NibbleQuant", "CNibbleKernels"]),
    .target(name: "NibbleTokenizers", dependencies: ["NibbleCore", "CNibbleSentencePiece", "CUTF8Proc"]),
    .target(name: "NibbleFormats", dependencies: ["NibbleCore", "NibbleQuant", "NibbleTokenizers"]),
    .target(name: "NibbleTemplates", dependencies: ["NibbleCore"]),
    .target(name: "NibbleAdapters", dependencies: ["NibbleCore", "NibbleCompute", "NibbleFormats"]),
    .target(
      name: "NibbleModels", dependencies: ["NibbleCore", "NibbleQuant", "NibbleCompute", "NibbleFormats", "NibbleAdapters"]),
    .target(
      name: "NibbleTraining",
      dependencies: [
        "NibbleCore", "NibbleQuant", "NibbleCompute", "NibbleFormats", "NibbleAdapters", "NibbleTokenizers", "NibbleModels",
        "NibbleCalibration", "NibbleEvaluation", "NibbleTemplates", "NibblePlots", "NibbleImages",
      ]),
    .target(
      name: "NibbleCalibration",
      dependencies: ["NibbleCore", "NibbleQuant", "NibbleCompute", "NibbleFormats", "NibbleAdapters", "NibbleModels", "CNibbleKernels"]),
    .target(name: "NibbleEvaluation", dependencies: ["NibbleCore", "NibbleCompute", "NibbleModels"]),
    .target(name: "NibbleSweep", dependencies: ["NibbleCore", "NibblePlots", "NibbleEvaluation", "CNibbleSystem"]),
    .executableTarget(
      name: "nibble",
      dependencies: [
        "NibbleCore", "NibbleQuant", "NibbleFormats", "NibbleCompute", "NibbleTokenizers", "NibbleAdapters", "NibbleModels",
        "NibbleEvaluation", "NibbleTraining", "NibbleTemplates", "NibbleCalibration", "NibbleSweep", "NibbleImages", "CEdit",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ]),
    .executableTarget(
      name: "KernelBench", dependencies: ["NibbleCompute", "NibbleCore", "NibbleQuant", "COpenBLAS"], path: "tools/KernelBench"),
    .executableTarget(
      name: "TokenizerBench", dependencies: ["NibbleCore", "NibbleTokenizers"], path: "tools/TokenizerBench"),
    .executableTarget(
      name: "RunBench", dependencies: ["NibbleCore", "NibbleQuant", "NibbleCompute", "NibbleModels"], path: "tools/RunBench"),
    .executableTarget(
      name: "OptimizerBench", dependencies: ["NibbleCore", "NibbleQuant", "NibbleCompute", "NibbleTraining"], path: "tools/OptimizerBench"),
    .executableTarget(name: "Verdicts", dependencies: ["NibbleCore", "NibbleFormats"], path: "tools/Verdicts"),
    .target(name: "TestSupport", dependencies: ["NibbleCore", "NibbleFormats"], path: "Tests/TestSupport"),
    .testTarget(name: "NibbleCoreTests", dependencies: ["NibbleCore", "TestSupport"]),
    .testTarget(name: "NibbleImagesTests", dependencies: ["NibbleImages", "TestSupport"]),
    .testTarget(name: "NibbleQuantTests", dependencies: ["NibbleQuant", "TestSupport"]),
    .testTarget(name: "NibbleComputeTests", dependencies: ["NibbleCompute", "NibbleQuant", "CNibbleKernels", "TestSupport"]),
    .testTarget(
      name: "NibbleModelsTests",
      dependencies: ["NibbleModels", "NibbleAdapters", "NibbleCompute", "NibbleFormats", "NibbleEvaluation", "TestSupport"]),
    .testTarget(
      name: "NibbleTrainingTests",
      dependencies: ["NibbleTraining", "NibbleCalibration", "NibbleModels", "NibbleAdapters", "NibbleFormats", "NibbleTokenizers", "NibbleTemplates", "NibbleEvaluation", "NibblePlots", "TestSupport"]),
    .testTarget(
      name: "NibbleAdaptersTests", dependencies: ["NibbleAdapters", "NibbleCompute", "NibbleQuant", "NibbleFormats", "TestSupport"]),
    .testTarget(
      name: "NibbleCalibrationTests",
      dependencies: [
        "NibbleCalibration", "NibbleModels", "NibbleAdapters", "NibbleCompute", "NibbleQuant", "NibbleFormats", "NibbleEvaluation",
        "TestSupport",
      ]),
    .testTarget(name: "NibbleEvaluationTests", dependencies: ["NibbleEvaluation", "NibbleCore", "TestSupport"]),
    .testTarget(name: "NibbleFormatsTests", dependencies: ["NibbleFormats", "TestSupport"]),
    .testTarget(name: "NibbleTemplatesTests", dependencies: ["NibbleTemplates", "TestSupport"]),
    .testTarget(name: "NibbleTokenizersTests", dependencies: ["NibbleTokenizers", "TestSupport"]),
    .testTarget(name: "NibbleSweepTests", dependencies: ["NibbleSweep", "NibblePlots", "TestSupport"]),
    .testTarget(name: "CommandTests", dependencies: ["nibble", "NibbleQuant", "NibbleSweep", "TestSupport"], exclude: ["faults.c"]),
  ]
)

// Only for tools/fuzz: its products need the fuzzer's own runtime.
if Context.environment["NIBBLE_FUZZ"] != nil {
  package.targets.append(
    .executableTarget(
      name: "FuzzTargets",
      dependencies: ["NibbleCore", "NibbleFormats", "NibbleAdapters", "NibbleTokenizers", "NibbleTemplates", "NibbleImages", "NibbleModels", "NibbleTraining"],
      path: "tools/FuzzTargets", exclude: ["seeds.py"]))
}

// Only for tools/documentation: users of the library need not fetch the plugin.
if Context.environment["NIBBLE_DOCUMENTATION"] != nil {
  package.dependencies.append(.package(url: "https://github.com/swiftlang/swift-docc-plugin", from: "1.4.0"))
}

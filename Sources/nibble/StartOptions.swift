import ArgumentParser
import NibbleAdapters
import NibbleCalibration
import NibbleCore
import NibbleFormats
import NibbleTraining

/// Flags for how LoRA's factors begin.
struct StartOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "How LoRA's factors begin: kaiming (PEFT's default), gaussian, orthogonal, pissa, pissa_niter_N, olora, loftq (with --original), eva or corda (with --statistics). pissa, olora and corda are written as a LoRA of twice the rank for the base as it is.",
      valueName: "start"))
  var initLora: AdapterOptions.Start = .kaiming
  @Option(
    parsing: .singleValue,
    help: ArgumentHelp(
      "A setting of the start by PEFT's key: eva has rho=2 and adjust_scaling_factors=true, corda has corda_method=ipm or kpm; can be repeated.",
      valueName: "KEY=VALUE"))
  var initOption: [String] = []
  @Option(help: ArgumentHelp("eva, corda: what the base's layers take, as 'nibble calibrate' wrote it.", valueName: "FILE"))
  var statistics: String?
  @Option(help: ArgumentHelp("loftq: the model that the base was packed from.", valueName: "MODEL"))
  var original: String?

  /// - Throws: `.usage` for settings the start does not have, `.badInput` for files that are none
  func apply(to options: inout AdapterOptions) throws {
    options.start = initLora
    for text in initOption {
      let (setting, number) = try MethodSetting.given(text, among: initLora.settings, flag: "--init-option", of: "--init-lora \(initLora.rawValue)")
      guard let number else { throw NibbleError.usage("--init-option \(subject: text) names modules") }
      options.startSettings[setting.key] = number
    }
    options.statistics = try statistics.map { try StatisticsFile($0) }
    options.original = try original.map { try Checkpoint.open($0) }
  }

  /// As `--config` takes them.
  var yaml: [(String, JSON?)] {
    [
      ("init_lora", JSON(initLora.rawValue)), ("init_option", initOption.isEmpty ? nil : JSON(initOption)),
      ("statistics", statistics.map { JSON($0) }), ("original", original.map { JSON($0) }),
    ]
  }

  static let flags = ["--init-lora", "--init-option", "--statistics", "--original"]
}

extension MethodSetting {
  /// A setting given as KEY=VALUE; no number where it names modules.
  static func given(_ text: String, among known: [MethodSetting], flag: String, of owner: String) throws -> (setting: MethodSetting, number: Double?) {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.usage("\(flag) \(subject: text): \(reason)") }
    guard let equals = text.firstIndex(of: "=") else { throw fail("it is not KEY=VALUE") }
    let key = String(text[..<equals]), value = String(text[text.index(after: equals)...])
    guard let setting = known.first(where: { $0.key == key }) else {
      throw fail(known.isEmpty ? "\(owner) has no settings" : "\(owner) has \(known.map(\.key).joined(separator: ", "))")
    }
    guard !setting.namesModules else { return (setting, nil) }
    guard let number = setting.number(text: value) else { throw fail("expected \(setting.expected)") }
    return (setting, number)
  }
}

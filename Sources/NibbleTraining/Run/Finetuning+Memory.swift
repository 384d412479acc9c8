import NibbleCore
import NibbleFormats
import NibbleModels

extension Finetuning {
  /// The memory the run needs with rows of `length` tokens.
  public func memory(length: Int, threads: Int = availableCores) -> MemoryPlan {
    var plan = MemoryPlan(model, trained, options.run, length: length, threads: threads)
    plan.rest += imageBytes
    return plan
  }

  /// The memory of the run as papers' tables count it.
  ///
  /// - Throws: `.usage` for adapters on a base that is not packed, of which there is no such table
  public func publishedMemory(length: Int, threads: Int = availableCores) throws -> PublishedMemory {
    let checkpoint = model.checkpoint
    guard let dtype = checkpoint.tensors.max(by: { $0.count < $1.count })?.dtype else { throw NibbleError.usage("the model has no tensors") }
    guard isFull || !checkpoint.packed.isEmpty else {
      throw NibbleError.usage("\(.asPublished): published tables are of packed bases and of \(.method, "full"); \(path: model.path) is not packed")
    }
    return PublishedMemory(
      parameters: checkpoint.tensors.reduce(0) { $0 + $1.count }, trained: trained.tensors.reduce(0) { $0 + $1.values.count },
      weightBits: isFull ? dtype.bitWidth : 4, isFull: isFull, plan: memory(length: length, threads: threads))
  }

  /// Throws for a run that takes more memory than `limit`, or than the machine has.
  ///
  /// - Parameter length: tokens of the longest row
  /// - Throws: `.usage` with both figures
  public func checkMemory(length: Int, limit: Int?, threads: Int = availableCores) throws {
    let needed = memory(length: length, threads: threads).total
    guard needed > limit ?? Machine.memory else { return }
    throw NibbleError.usage(
      "the run needs about \(byteText(needed)) of memory, \(byteText(limit ?? Machine.memory)) are \(limit == nil ? "available" : "allowed"); "
        + "a smaller \(.batchSize), \(.maxLength) or \(.loraRank), or \(.gradientCheckpointing) needs less")
  }
}

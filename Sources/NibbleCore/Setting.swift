/// An option of the library that a message names.
///
/// The library calls an option by this name; the command line writes the flag that sets it. A test holds that every case has
/// such a flag.
public enum Setting: String, Sendable, Hashable, CaseIterable {
  // Outputs.
  case format, force, resume, compress, maxMemory, maxShardSize, undo, ggufType, ggufPre, allowRequantize, imatrix
  // Packing.
  case codec, groupSize, tile, symmetric, zeros, encoder, bnbRules, keep, doubleQuant, maxError, allowNonfinite
  // Adapters and merging.
  case base, baseName, anyBase, trainedOn, whenLost, dtype, check, checkModel, method, svdRank, density, minSurvival, rank, energy, minEnergy, others
  // Training.
  case targetModules, excludeModules, modulesToSave, trainableTokenIndices, layerReplication, initAdapter, numLabels, labels, template, breakMarks
  case addTokens, showBatch, epochs, batchSize, maxLength, docStride, mlmProbability
  case learningRate, gradientCheckpointing, loraRank, loraAlpha, loraDropout, rankPattern, alphaPattern, bias, loraBias, initLora, initOption
  case statistics, original, loraplusRatio, mergeAware
  case qaloraGroupSize, qaloraGain
  case maxSteps, gradientAccumulationSteps, lrScheduler, warmupSteps, warmupRatio, optimizer, adamBeta1, adamBeta2, adamEpsilon
  case paged, learningRatePattern, noDecay, lrCycles, lrPower, lrEnd, lrDecaySteps, lrDecay, lrLeast, neftuneNoiseAlpha, labelSmoothing, asPublished
  case metricForBestModel, randomFlip, randomCrop
  case momentum, weightDecay, maxGradNorm, seed, noShuffle, groupByLength, computeDtype
  // Running.
  case context, stride, questionStyle, fewShot, exemplars, maxNewTokens, maxPromptTokens, temperature, topK, topP, minP, repetitionPenalty, noRepeatNgramSize
  // Sweeps.
  case set

  /// The option's name in the library's own words.
  public var name: String { rawValue }
}

import NibbleCore
@testable import NibbleEvaluation
import Testing
import TestSupport

/// `Tests/Fixtures/metrics/texts.json`: texts, and what the original scorers make of them.
private struct Golden {
  let texts: ReferencedTexts
  let captions: [[String]]
  let expected: JSON

  init() throws {
    let file = try JSON.parse(try bytes(of: fixture("metrics/texts.json")))
    func strings(_ value: JSON?) -> [String] { (value?.array ?? []).compactMap(\.string) }
    let rows = file["texts"]?.array ?? []
    texts = try ReferencedTexts(rows.compactMap { $0["prediction"]?.string }, references: rows.map { strings($0["references"]) })
    captions = rows.map { strings($0["captions"]) }
    expected = try #require(file["expected"])
  }

  func expect(_ score: CorpusScore, _ key: String, items: Bool = true, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let own = try #require(expected[key])
    #expect(abs(score.value - (own["value"]?.double ?? .nan)) < 1e-12, "\(key)", sourceLocation: sourceLocation)
    guard items, let wanted = own["items"]?.array?.map({ $0.double ?? .nan }), let found = score.items else { return }
    #expect(found.count == wanted.count)
    for (found, wanted) in zip(found, wanted) where wanted <= 1 || key == "cider" {
      #expect(abs(found - wanted) < 1e-12, "\(key)", sourceLocation: sourceLocation)
    }
  }
}

@Suite("Texts judged by references")
struct TextMetricTests {
  @Test("BLEU and NIST are those of the E2E challenge's scorer")
  func mteval() throws {
    let golden = try Golden()
    try golden.expect(BLEU().score(golden.texts), "bleu")
    try golden.expect(BLEU(smoothing: 1).score(golden.texts), "bleu_smooth")
    let long = golden.texts.predictions.indices.filter { $0 != 5 && $0 != 6 }
    let texts = try ReferencedTexts(long.map { golden.texts.predictions[$0] }, references: long.map { golden.texts.references[$0] })
    try golden.expect(NIST().score(texts), "nist")
  }

  @Test("ROUGE-L and CIDEr-D are those of the COCO caption scorer, its words those of Stanford's tokenizer")
  func captions() throws {
    let golden = try Golden()
    for (own, wanted) in zip(zip(golden.texts.predictions, golden.texts.references), golden.captions) {
      for (text, words) in zip([own.0] + own.1, wanted) { #expect(PTBTokens.cut(text).joined(separator: " ") == words) }
    }
    try golden.expect(RougeL().score(golden.texts), "rouge_l")
    try golden.expect(CIDErD().score(golden.texts), "cider")
    let captions = try ReferencedTexts(golden.captions.map { $0[0] }, references: golden.captions.map { Array($0.dropFirst()) })
    #expect(RougeL().score(captions, tokenized: true).value == RougeL().score(golden.texts).value)
    #expect(CIDErD().score(captions, tokenized: true).value == CIDErD().score(golden.texts).value)
  }

  @Test("METEOR is that of METEOR 1.5, and its name says what it goes without")
  func meteor() throws {
    let golden = try Golden()
    let wordNet = try WordNet(fixture("metrics/wordnet"))
    let full = try METEOR(wordNet: fixture("metrics/wordnet"), paraphrases: fixture("metrics/paraphrases.txt"))
    for scorer in [METEOR(wordNet: nil), METEOR(wordNet: wordNet), full] {
      try golden.expect(try scorer.score(golden.texts), scorer.key)
    }
    try golden.expect(try METEOR(wordNet: wordNet).score(golden.texts.captions), "meteor_captions")
    #expect(METEOR(wordNet: nil).key == "meteor_exact_stem" && METEOR(wordNet: wordNet).key == "meteor_exact_stem_synonym")
    #expect(full.label == "METEOR" && METEOR(wordNet: nil).label == "METEOR without synonyms and paraphrases")
  }

  @Test("stems are those of the English snowball stemmer of METEOR 1.5")
  func stems() {
    let stems = [
      "skies": "sky", "dying": "die", "generously": "generous", "communication": "communic", "arsenal": "arsenal", "'tis": "tis",
      "boys'": "boy", "ties": "tie", "cries": "cri", "gas": "gas", "gaps": "gap", "kiwis": "kiwi", "abyss": "abyss", "feed": "feed",
      "agreed": "agre", "hopping": "hop", "hoping": "hope", "luxuriating": "luxuri", "say": "say", "by": "by", "happily": "happili",
      "radically": "radic", "vietnamization": "vietnam", "analogies": "analog", "inning": "inning", "succeeded": "succeed",
      "beautifully": "beauti", "adjustment": "adjust", "decision": "decis", "controller": "control", "bluely": "blueli", "ee": "ee",
      "yellowing": "yellow", "cafés": "café", "": "", "y": "y", "'": "'", "'''": "'",
    ]
    for (word, stem) in stems { #expect(EnglishStemmer.stem(word) == stem, "\(word)") }
  }

  @Test("METEOR's words", arguments: [
    ("It's a well-known U.S. café... isn't it?", "it 's a well known us café ... isn 't it ?"),
    ("Mr. Fox paid 1,000 dollars, or 3.5 -- “more”.", "mr. fox paid 1,000 dollars , or 3.5 - \" more \" ."),
    ("No. 5 in the 1990's; no.", "no. 5 in the 1990 's ; no ."),
    ("see p.m. and e.g. that", "see pm and eg that"),
    ("", ""),
  ])
  func meteorWords(text: String, words: String) { #expect(MeteorWords.cut(text).joined(separator: " ") == words) }

  @Test("a paraphrase table that is packed, cut or absent is one error")
  func tables() throws {
    let folder = TemporaryFolder()
    func refused(_ make: () throws -> Void) -> String? {
      do { try make(); return nil } catch { return (error as? NibbleError).map { "\($0.kind.rawValue) \($0)" } }
    }
    #expect(refused { _ = try ParaphraseTable(folder.file("none")) }?.hasPrefix("3 ") == true)
    let packed = try folder.write("packed.gz", [0x1F, 0x8B, 8, 0])
    #expect(refused { _ = try ParaphraseTable(packed) }?.contains("gunzip") == true)
    let cut = try folder.write("cut", "0.5\nthe pub\nthe inn\n0.5\na pub\n")
    let texts = try ReferencedTexts(["the pub"], references: [["the inn"]])
    #expect(refused { _ = try METEOR(wordNet: nil, paraphrases: ParaphraseTable(cut)).score(texts) }?.contains("three lines") == true)
    #expect(refused { _ = try WordNet(folder.path) }?.contains("index.noun") == true)
  }

  @Test("files that are no WordNet know no words")
  func brokenWordNet() throws {
    let folder = TemporaryFolder()
    for part in ["noun", "verb", "adj", "adv"] {
      try folder.write("index." + part, "\n\ndog n\ndog n 99999999999999999999 1\ncat n 3 1 x\nfish n -1 0 0\nzebra n 1 0 1 0 12x\nno end")
      try folder.write(part + ".exc", "")
    }
    let wordNet = try WordNet(folder.path)
    for word in ["dog", "dogs", "cat", "fish", "zebra", "no", "", " ", "ss"] { #expect(wordNet.synonymSets(word).isEmpty) }
  }

  @Test("texts without words, alone or all of them, have scores")
  func emptyTexts() throws {
    for texts in [
      try ReferencedTexts([""], references: [[""]]), try ReferencedTexts(["", "  "], references: [["a pub"], ["", "the inn"]]),
      try ReferencedTexts(["a pub is here today", ""], references: [[""], ["here is a pub today"]]),
      try ReferencedTexts(["\u{0}\u{FFFD}\u{200B}", "👩‍👩‍👧 e\u{301}"], references: [["."], ["…", "!!!"]]),
    ] {
      for score in [
        BLEU().score(texts), BLEU(smoothing: 1).score(texts), NIST().score(texts), RougeL().score(texts), CIDErD().score(texts),
        try METEOR(wordNet: nil).score(texts),
      ] {
        #expect(score.value.isFinite && score.value >= 0)
        #expect(score.items?.count == texts.count && score.items?.allSatisfy { $0.isFinite } == true)
        #expect(texts.count > 1 || score.interval() == nil)
      }
    }
  }

  @Test("a text that is its reference scores highest, whatever else there is")
  func identical() throws {
    let texts = try ReferencedTexts(
      ["the old mill is near the river", "a pub in the centre of town"],
      references: [["the old mill is near the river"], ["an inn", "a pub in the centre of town"]])
    #expect(BLEU().score(texts).value == 1 && RougeL().score(texts).value == 1)
    #expect(try METEOR(wordNet: nil).score(texts).items == [1, 1])
  }

  @Test("short texts do not make BLEU greater than 1")
  func shortTexts() throws {
    let texts = try ReferencedTexts(["the old mill here", "pub", "inn"], references: [["the old mill here"], ["pub"], ["inn"]])
    #expect(BLEU().score(texts).value <= 1 && BLEU(smoothing: 1).score(texts).value <= 1)
  }

  @Test("no texts, too few references and none at all are refused")
  func refused() {
    #expect(throws: NibbleError.self) { try ReferencedTexts([], references: []) }
    #expect(throws: NibbleError.self) { try ReferencedTexts(["a"], references: []) }
    #expect(throws: NibbleError.self) { try ReferencedTexts(["a", "b"], references: [["a"], []]) }
  }
}

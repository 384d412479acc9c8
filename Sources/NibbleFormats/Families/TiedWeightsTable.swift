/// The parameters that transformers ties, by architecture; generated from `get_expanded_tied_weights_keys` of transformers 5.23.
///
/// Lines `parameter = the one whose values it has` head the architectures with these ties, `-` those language models that have none.
/// `+`: tied unless the configuration says otherwise. `~`: the parameter whose values the others have is not the input embedding's. `!`:
/// `tie_word_embeddings` does not decide by itself, or decides more than this, such as the scale of T5's outputs, so that a checkpoint cannot
/// be untied by setting it.
enum TiedWeightsTable {
  static let text = """
    lm_head.weight = model.embed_tokens.weight
      AXK1ForCausalLM AXK2ForCausalLM AfmoeForCausalLM ApertusForCausalLM ArceeForCausalLM AriaTextForCausalLM
      BambaForCausalLM BeamForCausalLM BitNetForCausalLM ChameleonForConditionalGeneration Cohere2ForCausalLM+
      Cohere2MoeForCausalLM+ CohereCompassForCausalLM+ CohereForCausalLM+ CwmForCausalLM DeepseekV2ForCausalLM
      DeepseekV32ForCausalLM DeepseekV3ForCausalLM DeepseekV4ForCausalLM DiffLlamaForCausalLM DogeForCausalLM
      Dots1ForCausalLM Dots3NoteForCausalLM Emu3ForCausalLM Ernie4_5ForCausalLM+ Ernie4_5_MoeForCausalLM+
      EuroBertForMaskedLM Exaone4ForCausalLM ExaoneMoeForCausalLM FalconH1ForCausalLM FlexOlmoForCausalLM FlintForCausalLM
      Gemma2ForCausalLM+ Gemma3ForCausalLM+ Gemma3nForCausalLM+ Gemma4AssistantForCausalLM Gemma4ForCausalLM+
      Gemma4UnifiedAssistantForCausalLM+ Gemma4UnifiedForCausalLM+ GemmaForCausalLM+ Glm4ForCausalLM Glm4MoeForCausalLM
      Glm4MoeLiteForCausalLM GlmForCausalLM GlmMoeDsaForCausalLM GptOssForCausalLM GraniteForCausalLM
      GraniteMoeForCausalLM GraniteMoeHybridForCausalLM GraniteMoeSWAForCausalLM GraniteMoeSharedForCausalLM
      GraniteSWAForCausalLM+ HYV3ForCausalLM HYV4ForCausalLM HeliumForCausalLM HrmTextForCausalLM
      HunYuanDenseV1ForCausalLM HunYuanMoEV1ForCausalLM HyperCLOVAXForCausalLM IdeficsForVisionText2Text Jais2ForCausalLM
      JambaForCausalLM JetMoeForCausalLM+ Kolibri1ForCausalLM LagunaForCausalLM Lfm2ForCausalLM+ Lfm2MoeForCausalLM+
      Lfm3ForCausalLM+ Llama4ForCausalLM LlamaForCausalLM LongcatFlashForCausalLM MellumForCausalLM MiMoV2FlashForCausalLM
      MiniCPM3ForCausalLM+ MiniMaxForCausalLM MiniMaxM2ForCausalLM MiniMaxM3VLForCausalLM Ministral3ForCausalLM
      MinistralForCausalLM Mistral4ForCausalLM MistralForCausalLM MixtralForCausalLM NanoChatForCausalLM
      NemotronForCausalLM Olmo2ForCausalLM Olmo3ForCausalLM OlmoForCausalLM OlmoHybridForCausalLM OlmoeForCausalLM
      PersimmonForCausalLM Phi3ForCausalLM Phi4MultimodalForCausalLM PhiForCausalLM PhimoeForCausalLM Qwen2ForCausalLM
      Qwen2MoeForCausalLM Qwen3ForCausalLM Qwen3MoeForCausalLM Qwen3NextForCausalLM Qwen3_5ForCausalLM
      Qwen3_5MoeForCausalLM Qwen4ExpForCausalLM RecurrentGemmaForCausalLM+ SeedOssForCausalLM SmolLM3ForCausalLM+
      SolarOpenForCausalLM StableLmForCausalLM Starcoder2ForCausalLM+ VaultGemmaForCausalLM+ XGLMForCausalLM+
      YoutuForCausalLM+ Zamba2ForCausalLM+! ZambaForCausalLM+! ZayaForCausalLM+
    lm_head.weight = model.language_model.embed_tokens.weight
      AriaForConditionalGeneration AyaVisionForConditionalGeneration+ Cohere2VisionForConditionalGeneration+
      CohereCompassForConditionalGeneration Cosmos3OmniForConditionalGeneration DeepseekOcr2ForConditionalGeneration
      DeepseekVLForConditionalGeneration+ DeepseekVLHybridForConditionalGeneration+ Dots3NoteForConditionalGeneration
      Ernie4_5_VLMoeForConditionalGeneration+ Exaone4_5_ForConditionalGeneration FastVlmForConditionalGeneration
      FunAsrNanoForConditionalGeneration+ FuyuForCausalLM Gemma3ForConditionalGeneration+ Gemma3nForConditionalGeneration+
      Gemma4ForConditionalGeneration+ Gemma4UnifiedForConditionalGeneration+ Glm46VForConditionalGeneration
      Glm4vForConditionalGeneration Glm4vMoeForConditionalGeneration Glm5NextForConditionalGeneration
      GlmAsrForConditionalGeneration+ GlmOcrForConditionalGeneration GotOcr2ForConditionalGeneration+
      Granite4VisionForConditionalGeneration GraniteSpeechForConditionalGeneration+
      GraniteSpeechPlusForConditionalGeneration+ HunYuanVLForConditionalGeneration+
      HyperCLOVAXVisionV2ForConditionalGeneration+ InternVLForConditionalGeneration+ JanusForConditionalGeneration+
      Kimi_K25ForConditionalGeneration+ Lfm2VlForConditionalGeneration+ Lfm3VlForConditionalGeneration+
      LightOnOcrForConditionalGeneration+ LlavaForConditionalGeneration LlavaNextForConditionalGeneration
      LlavaNextVideoForConditionalGeneration LlavaOnevisionForConditionalGeneration MiniCPMOcrForConditionalGeneration+
      MiniCPMV4_6ForConditionalGeneration MiniCPMV4_7ForConditionalGeneration MiniMaxM3SparseForConditionalGeneration
      Mistral3ForConditionalGeneration+ MistralLarge4ForConditionalGeneration
      MossTranscribeDiarizeForConditionalGeneration+ MuseGlimmerForConditionalGeneration Ovis2ForConditionalGeneration+
      PaddleOCRVLForConditionalGeneration+ PaliGemmaForConditionalGeneration+ PerceptionLMForConditionalGeneration
      QianfanOCRForConditionalGeneration Qwen2VLForConditionalGeneration Qwen2_5OmniThinkerForConditionalGeneration
      Qwen2_5_VLForConditionalGeneration Qwen3ASRForConditionalGeneration+ Qwen3OmniMoeThinkerForConditionalGeneration
      Qwen3VLForConditionalGeneration Qwen3VLMoeForConditionalGeneration Qwen3_5ForConditionalGeneration
      Qwen3_5MoeForConditionalGeneration Qwen4ExpForConditionalGeneration Step3p7ForConditionalGeneration
      UnlimitedOcrForConditionalGeneration VibeVoiceForConditionalGeneration VideoLlama3ForConditionalGeneration
      VideoLlavaForConditionalGeneration VipLlavaForConditionalGeneration VoxtralRealtimeForConditionalGeneration+
    decoder.embed_tokens.weight = shared.weight
    encoder.embed_tokens.weight = shared.weight
      BartModel+ BigBirdPegasusModel+ BlenderbotModel+ BlenderbotSmallModel+ LEDModel+ LongT5Model+! M2M100Model+
      MBartModel+ MT5ForQuestionAnswering+! MT5Model+! MarianModel+~ MvpModel+ NllbMoeModel+ PLBartModel+ PegasusModel+
      PegasusXModel+ Pop2PianoForConditionalGeneration+! SwitchTransformersModel+! T5ForQuestionAnswering+! T5Model+!
      UMT5ForQuestionAnswering+! UMT5Model+!
    lm_head.weight = model.shared.weight
    model.decoder.embed_tokens.weight = model.shared.weight
    model.encoder.embed_tokens.weight = model.shared.weight
      BartForConditionalGeneration+ BigBirdPegasusForConditionalGeneration+ BlenderbotForConditionalGeneration+
      BlenderbotSmallForConditionalGeneration+ M2M100ForConditionalGeneration+ MBartForConditionalGeneration+
      MarianMTModel+~ MvpForConditionalGeneration+ NllbMoeForConditionalGeneration+ PLBartForConditionalGeneration+
      PegasusForConditionalGeneration+ PegasusXForConditionalGeneration+
    lm_head.decoder.bias = lm_head.bias
    lm_head.decoder.weight = roberta.embeddings.word_embeddings.weight
      CamembertForCausalLM+ CamembertForMaskedLM+ JinaEmbeddingsV3ForMaskedLM+ RobertaForCausalLM+ RobertaForMaskedLM+
      XLMRobertaForCausalLM+ XLMRobertaForMaskedLM+ XLMRobertaXLForCausalLM+ XLMRobertaXLForMaskedLM+ XmodForCausalLM+
      XmodForMaskedLM+
    lm_head.weight = model.decoder.embed_tokens.weight
      BartForCausalLM+ BlenderbotForCausalLM+ BlenderbotSmallForCausalLM+ DiffusionGemmaForBlockDiffusion+
      MBartForCausalLM+ MarianForCausalLM+ MvpForCausalLM+ OPTForCausalLM+ PLBartForCausalLM+ PegasusForCausalLM+!
      Speech2TextForConditionalGeneration+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = bert.embeddings.word_embeddings.weight
      BertForMaskedLM+ BertForPreTraining+ BertLMHeadModel+ BigBirdForCausalLM+ BigBirdForMaskedLM+ BigBirdForPreTraining+
      MegatronBertForCausalLM+ MegatronBertForMaskedLM+ MegatronBertForPreTraining+
    model.decoder.embed_tokens.weight = model.shared.weight
    model.encoder.embed_tokens.weight = model.shared.weight
      BartForQuestionAnswering+ BartForSequenceClassification+ BigBirdPegasusForQuestionAnswering+
      BigBirdPegasusForSequenceClassification+ MBartForQuestionAnswering+ MBartForSequenceClassification+
      MvpForQuestionAnswering+ MvpForSequenceClassification+ PLBartForSequenceClassification+
    lm_head.weight = transformer.wte.weight
      CodeGenForCausalLM DbrxForCausalLM GPT2LMHeadModel+ GPTBigCodeForCausalLM+ GPTJForCausalLM GPTNeoForCausalLM+
      ImageGPTForCausalImageModeling MptForCausalLM+
    decoder.embed_tokens.weight = shared.weight
    encoder.embed_tokens.weight = shared.weight
    lm_head.weight = shared.weight
      LongT5ForConditionalGeneration+! MT5ForConditionalGeneration+! SwitchTransformersForConditionalGeneration+!
      T5ForConditionalGeneration+! UMT5ForConditionalGeneration+! UdopForConditionalGeneration+!
    lm_head.weight = model.text_model.embed_tokens.weight
      Emu3ForConditionalGeneration GraniteDoclingForConditionalGeneration+ Idefics2ForConditionalGeneration
      Idefics3ForConditionalGeneration SmolVLMForConditionalGeneration UltraVBertForMaskedLM
    proj_out.weight = model.decoder.embed_tokens.weight
      CanaryForConditionalGeneration+ CohereAsrForConditionalGeneration MoonshineForConditionalGeneration+
      MoonshineStreamingForConditionalGeneration WhisperForCausalLM+ WhisperForConditionalGeneration+
    language_model.lm_head.weight = language_model.model.decoder.embed_tokens.weight
      Blip2ForConditionalGeneration! Blip2Model! InstructBlipForConditionalGeneration!
      InstructBlipVideoForConditionalGeneration!
    lm_head.weight = shared.weight
    t2u_model.lm_head.weight = t2u_model.model.decoder.embed_tokens.weight
    text_decoder.embed_tokens.weight = shared.weight
    text_encoder.embed_tokens.weight = shared.weight
      SeamlessM4TForTextToSpeech+~! SeamlessM4TModel+~! SeamlessM4Tv2ForTextToSpeech+~! SeamlessM4Tv2Model+~!
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = ernie.embeddings.word_embeddings.weight
      ErnieForCausalLM+ ErnieForMaskedLM+ ErnieForPreTraining+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = roc_bert.embeddings.word_embeddings.weight
      RoCBertForCausalLM+ RoCBertForMaskedLM+ RoCBertForPreTraining+
    decoder.cls.predictions.decoder.bias = decoder.cls.predictions.bias
    decoder.cls.predictions.decoder.weight = decoder.bert.embeddings.word_embeddings.weight
      EncoderDecoderModel~! SpeechEncoderDecoderModel! VisionEncoderDecoderModel!
    encoder.embed_tokens.weight = shared.weight
      MT5EncoderModel+! T5EncoderModel+! UMT5EncoderModel+!
    lm_head.weight = backbone.embeddings.weight
      FalconMambaForCausalLM+ Mamba2ForCausalLM MambaForCausalLM+
    transformer.decoder.embed_tokens.weight = transformer.shared.weight
    transformer.encoder.embed_tokens.weight = transformer.shared.weight
      MT5ForSequenceClassification+! T5ForSequenceClassification+! UMT5ForSequenceClassification+!
    transformer.encoder.embed_tokens.weight = transformer.shared.weight
      MT5ForTokenClassification+! T5ForTokenClassification+! UMT5ForTokenClassification+!
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = deberta.embeddings.word_embeddings.weight
      DebertaForMaskedLM+ DebertaV2ForMaskedLM+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = fnet.embeddings.word_embeddings.weight
      FNetForMaskedLM+ FNetForPreTraining+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = mobilebert.embeddings.word_embeddings.weight
      MobileBertForMaskedLM+ MobileBertForPreTraining+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = roformer.embeddings.word_embeddings.weight
      RoFormerForCausalLM+ RoFormerForMaskedLM+
    decoder.weight = model.embeddings.tok_embeddings.weight
      ModernBertDecoderForCausalLM+ ModernBertForMaskedLM+
    generator_lm_head.weight = electra.embeddings.word_embeddings.weight
      ElectraForCausalLM+ ElectraForMaskedLM+
    lm_head.decoder.bias = lm_head.bias
    lm_head.decoder.weight = data2vec_text.embeddings.word_embeddings.weight
      Data2VecTextForCausalLM+ Data2VecTextForMaskedLM+
    lm_head.decoder.bias = lm_head.bias
    lm_head.decoder.weight = roberta_prelayernorm.embeddings.word_embeddings.weight
      RobertaPreLayerNormForCausalLM+ RobertaPreLayerNormForMaskedLM+
    lm_head.weight = shared.weight
    text_decoder.embed_tokens.weight = shared.weight
      SeamlessM4TForSpeechToText+~ SeamlessM4Tv2ForSpeechToText+~
    lm_head.weight = shared.weight
    text_decoder.embed_tokens.weight = shared.weight
    text_encoder.embed_tokens.weight = shared.weight
      SeamlessM4TForTextToText+~ SeamlessM4Tv2ForTextToText+~
    lm_head.weight = transformer.word_embeddings.weight
      BloomForCausalLM+ FalconForCausalLM+
    model.decoder.embed_tokens.eoi_embedding = model.encoder.text_model.embed_tokens.eoi_embedding
    model.decoder.embed_tokens.weight = model.encoder.text_model.embed_tokens.weight
      T5Gemma2ForSequenceClassification+! T5Gemma2ForTokenClassification+!
    pred_layer.proj.weight = transformer.embeddings.weight
      FlaubertWithLMHeadModel+ XLMWithLMHeadModel+
    predictions.decoder.bias = predictions.bias
    predictions.decoder.weight = albert.embeddings.word_embeddings.weight
      AlbertForMaskedLM+ AlbertForPreTraining+
    text_decoder.cls.predictions.decoder.bias = text_decoder.cls.predictions.bias
    text_decoder.cls.predictions.decoder.weight = text_decoder.bert.embeddings.word_embeddings.weight
      BlipForConditionalGeneration+! BlipForQuestionAnswering+~!
    text_encoder.encoder.embed_tokens.weight = text_encoder.shared.weight
      MusicgenForConditionalGeneration! MusicgenMelodyForConditionalGeneration!
    text_model.lm_head.weight = text_model.model.embed_tokens.weight
      Kosmos2ForConditionalGeneration+! Kosmos2_5ForConditionalGeneration+!
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = layoutlm.embeddings.word_embeddings.weight
      LayoutLMForMaskedLM+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = mra.embeddings.word_embeddings.weight
      MraForMaskedLM+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = nomic_bert.embeddings.word_embeddings.weight
      NomicBertForMaskedLM+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = nystromformer.embeddings.word_embeddings.weight
      NystromformerForMaskedLM+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = tapas.embeddings.word_embeddings.weight
      TapasForMaskedLM+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = transformer.embeddings.word_embeddings.weight
      SqueezeBertForMaskedLM+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = visual_bert.embeddings.word_embeddings.weight
      VisualBertForPreTraining+
    cls.predictions.decoder.bias = cls.predictions.bias
    cls.predictions.decoder.weight = yoso.embeddings.word_embeddings.weight
      YosoForMaskedLM+
    cls.predictions.decoder.weight = lxmert.embeddings.word_embeddings.weight
      LxmertForPreTraining+
    decoder.embed_tokens.eoi_embedding = encoder.text_model.embed_tokens.eoi_embedding
    decoder.embed_tokens.weight = encoder.text_model.embed_tokens.weight
      T5Gemma2Model+!
    decoder.embed_tokens.weight = shared.weight
    encoder.embed_patches.proj.bias = patch_embed.proj.bias
    encoder.embed_patches.proj.weight = patch_embed.proj.weight
    encoder.embed_tokens.weight = shared.weight
      UdopModel+!
    decoder.output_projection.weight = decoder.embed_tokens.weight
    encoder.embed_tokens.weight = decoder.embed_tokens.weight
      FSMTModel~
    decoder.word_embeddings.weight = word_embeddings.weight
    encoder.word_embeddings.weight = word_embeddings.weight
      ProphetNetModel+
    embed_out.weight = gpt_neox_japanese.embed_in.weight
      GPTNeoXJapaneseForCausalLM+
    entity_predictions.decoder.weight = luke.entity_embeddings.entity_embeddings.weight
    lm_head.bias = lm_head.decoder.bias
      LukeForMaskedLM+~
    generator_lm_head.weight = convbert.embeddings.word_embeddings.weight
      ConvBertForMaskedLM+
    head.decoder.weight = model.embed_tokens.weight
      UltrabertForMaskedLM
    head.weight = rwkv.embeddings.weight
      RwkvForCausalLM
    language_model.decoder.embed_tokens.weight = language_model.shared.weight
    language_model.encoder.embed_tokens.weight = language_model.shared.weight
      Florence2Model+!
    led.decoder.embed_tokens.weight = led.shared.weight
    led.encoder.embed_tokens.weight = led.shared.weight
      LEDForQuestionAnswering+
    led.decoder.embed_tokens.weight = led.shared.weight
    led.encoder.embed_tokens.weight = led.shared.weight
    lm_head.weight = led.shared.weight
      LEDForConditionalGeneration+
    lm_head.decoder.bias = lm_head.bias
    lm_head.decoder.weight = bert.embeddings.word_embeddings.weight
      BertGenerationDecoder+
    lm_head.decoder.bias = lm_head.bias
    lm_head.decoder.weight = ibert.embeddings.word_embeddings.weight
      IBertForMaskedLM+
    lm_head.decoder.bias = lm_head.bias
    lm_head.decoder.weight = longformer.embeddings.word_embeddings.weight
      LongformerForMaskedLM+
    lm_head.decoder.bias = lm_head.bias
    lm_head.decoder.weight = mpnet.embeddings.word_embeddings.weight
      MPNetForMaskedLM+
    lm_head.decoder.weight = esm.embeddings.word_embeddings.weight
      EsmForMaskedLM+
    lm_head.decoder.weight = gte.embeddings.word_embeddings.weight
      GteForMaskedLM+
    lm_head.out_proj.weight = model.decoder.embed_tokens.weight
      T5GemmaForConditionalGeneration+~!
    lm_head.out_proj.weight = model.encoder.text_model.embed_tokens.weight
    model.decoder.embed_tokens.eoi_embedding = model.encoder.text_model.embed_tokens.eoi_embedding
    model.decoder.embed_tokens.weight = model.encoder.text_model.embed_tokens.weight
      T5Gemma2ForConditionalGeneration+!
    lm_head.weight = funnel.embeddings.word_embeddings.weight
      FunnelForMaskedLM+
    lm_head.weight = gpt_neox.embed_in.weight
      GPTNeoXForCausalLM
    lm_head.weight = model.embed_tokens.embed_tokens.weight
      KyutaiSpeechToTextForConditionalGeneration~
    lm_head.weight = model.embed_tokens.word_embeddings.weight
    unembedding_projection.weight = model.embed_tokens.embedding_projection.weight
      NeoMMEForMaskedLM+
    lm_head.weight = model.language_model.shared.weight
    model.language_model.decoder.embed_tokens.weight = model.language_model.shared.weight
    model.language_model.encoder.embed_tokens.weight = model.language_model.shared.weight
      Florence2ForConditionalGeneration+!
    lm_head.weight = model.text_model.embeddings.tok_embeddings.weight
      ModernVBertForMaskedLM
    lm_head.weight = prophetnet.word_embeddings.weight
    prophetnet.decoder.word_embeddings.weight = prophetnet.word_embeddings.weight
      ProphetNetForCausalLM+!
    lm_head.weight = prophetnet.word_embeddings.weight
    prophetnet.decoder.word_embeddings.weight = prophetnet.word_embeddings.weight
    prophetnet.encoder.word_embeddings.weight = prophetnet.word_embeddings.weight
      ProphetNetForConditionalGeneration+
    lm_head.weight = transformer.tokens_embed.weight
      OpenAIGPTLMHeadModel+
    lm_head.weight = transformer.w.weight
      CTRLLMHeadModel+
    lm_loss.weight = transformer.word_embedding.weight
      XLNetLMHeadModel+
    model.decoder.output_projection.weight = model.decoder.embed_tokens.weight
    model.encoder.embed_tokens.weight = model.decoder.embed_tokens.weight
      FSMTForConditionalGeneration~
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
      ShieldGemma2ForImageClassification+
    model.local_encoder.embed_tokens.weight = lm_head.weight
      BltForCausalLM~!
    output.weight = git.embeddings.word_embeddings.weight
      GitForCausalLM
    output_projection.weight = biogpt.embed_tokens.weight
      BioGptForCausalLM+
    output_projection.weight = model.decoder.embed_tokens.weight
      TrOCRForCausalLM+
    text_decoder_postnet.lm_head.weight = speecht5.decoder.prenet.embed_tokens.weight
      SpeechT5ForSpeechToText+
    vocab_projector.weight = distilbert.embeddings.word_embeddings.weight
      DistilBertForMaskedLM+
    -
      AudioFlamingo3ForConditionalGeneration BailingHybridForCausalLM BigBirdPegasusForCausalLM
      ClvpModelForConditionalGeneration Cosmos3EdgeForConditionalGeneration CpmAntForCausalLM DiaForConditionalGeneration
      EsmcForMaskedLM GradiumPhononTTSForConditionalGeneration HiggsAudioV2ForConditionalGeneration Inkling2ForCausalLM
      Inkling2ForConditionalGeneration InklingForCausalLM InklingForConditionalGeneration KimiLinearForCausalLM
      Llama4ForConditionalGeneration MllamaForCausalLM MllamaForConditionalGeneration Molmo2ForConditionalGeneration
      MoshiForCausalLM MuseSparkForConditionalGeneration MusicFlamingoForConditionalGeneration MusicgenForCausalLM
      MusicgenMelodyForCausalLM Nemotron3_5TranscribeForConditionalGeneration NemotronHForCausalLM
      PI0ForConditionalGeneration PPFormulaNetForConditionalGeneration PerceiverForMaskedLM
      Pix2StructForConditionalGeneration PocketTTSForConditionalGeneration Qwen2AudioForConditionalGeneration
      Qwen2_5OmniForConditionalGeneration Qwen3OmniMoeForConditionalGeneration ReformerForMaskedLM ReformerModelWithLMHead
      RemBertForCausalLM RemBertForMaskedLM VibeVoiceAsrForConditionalGeneration VoxtralForConditionalGeneration
      xLSTMForCausalLM
    """
}

"""Writes some tokenizer into a folder, for a converter that will not start without one: FOLDER."""
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>")),
    unk_token="<unk>", bos_token="<s>", eos_token="</s>").save_pretrained(sys.argv[1])

"""A tokenizer of whole words for class-name prompts."""

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

NAMES = ["cat", "dog", "eel", "fox"]
WORDS = ["pad", "start", "end", "unknown", "a", "photo", "of", "the", ".", *NAMES]


def word_tokenizer() -> Any:
    """A tokenizer that knows the words of the prompts."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="unknown"))
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    words.post_processor = processors.TemplateProcessing(
        single="start $A end", special_tokens=[("start", 1), ("end", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="pad", model_max_length=8)

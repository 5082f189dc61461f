"""The demo's tokenizer, trained on its own plots: nothing is downloaded."""

from collections.abc import Iterable

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import BertTokenizer

_SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def create_demo_tokenizer(plots: Iterable[str], vocab_size: int = 2000) -> BertTokenizer:
    """Train a lower-casing WordPiece tokenizer with BERT's special tokens.

    Args:
        plots: The training plots, without the missing ones.
        vocab_size: At most this many tokens, the special ones included.
    """
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=_SPECIAL_TOKENS, show_progress=False
    )
    tokenizer.train_from_iterator(plots, trainer)
    return BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=True)

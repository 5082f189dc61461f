"""A WordPiece tokenizer trained on the plots at hand: nothing is downloaded."""

from collections.abc import Iterable

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import BertTokenizer

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(plots: Iterable[str], vocab_size: int = 2000) -> BertTokenizer:
    """Train a lower-casing WordPiece tokenizer with BERT's special tokens.

    Args:
        plots: The training plots, without the missing ones.
        vocab_size: At most this many tokens, the special ones and the alphabet included.
    """
    plots = list(plots)
    normalizer = normalizers.BertNormalizer(lowercase=True)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet: set[str] = set()
    for plot in plots:
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(plot)):
            alphabet.update([word[0], *(f"##{letter}" for letter in word[1:])])

    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    # The trainer numbers the alphabet in the order of a randomly seeded hash map, and breaks ties
    # between merges by number. Special tokens it numbers in the order given.
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*_SPECIAL_TOKENS, *sorted(alphabet)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(plots, trainer)
    return BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=True)

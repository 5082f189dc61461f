"""The tokenizer of a folder or Hub name, or a WordPiece tokenizer trained on the plots at hand."""

from collections.abc import Iterable

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from mmgenre.utils.errors import UserError

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub name.

    Raises:
        UserError: There is none, or its files are not whole.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # missing files raise OSError, ValueError or TypeError here
        reason = " ".join(str(error).split())
        raise UserError(f"tokenizer {source!r} cannot be loaded ({reason})") from error
    # What transformers makes, without a word, where a tokenizer's files are not there.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(
            f"the tokenizer {source!r} has no tokens but the special ones; its tokenizer.json or "
            "vocab.txt is missing"
        )
    return tokenizer


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

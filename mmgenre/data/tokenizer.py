"""Tokenizers: trained on the plots at hand, loaded, compared with the one that made token ids."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel, WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# The words of scikit-learn's vectorizers, r"\b\w\w+\b", where \w leaves combining marks out.
_WORD = r"[\p{L}\p{N}_]{2,}"


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


def create_word_tokenizer(plots: Iterable[str], min_df: int) -> PreTrainedTokenizerFast:
    """A tokenizer with the words that scikit-learn's `TfidfVectorizer` counts, in their order.

    They are lower-cased runs of two letters or digits and more. [PAD] and [UNK] come before them,
    and nothing is added to a text.

    Args:
        min_df: A word is kept that so many plots have at least.

    Raises:
        UserError: There is no such word.
    """
    normalizer = normalizers.Lowercase()
    pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)
    counts: Counter[str] = Counter()
    for plot in plots:
        pieces = pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(plot))
        counts.update({word for word, _ in pieces})
    words = sorted(word for word, count in counts.items() if count >= min_df)
    if not words:
        raise UserError(
            f"no word is in {min_df} training plots or more, as min_df asks; lower it with "
            "--model_config min_df=1"
        )
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Hash of what decides a text's ids, cut and padding apart; None for a tokenizer in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    state = json.loads(backend.to_str())
    # The library notes the last call's cut and padding here.
    del state["truncation"], state["padding"]
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def are_tokens_usable(
    records: Sequence[MovieRecord], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> bool:
    """Whether the token ids that movies come with are what `tokenizer` would make of their plots.

    Where they are not, the reason is logged once.
    """
    tokens = next((record.tokens for record in records if record.tokens is not None), None)
    if tokens is None:
        return False
    if tokens.fingerprint != fingerprint(tokenizer):
        reason = "are of another tokenizer"
    elif tokens.max_length < max_length:
        reason = f"are cut to {tokens.max_length}, and the model takes {max_length}"
    elif tokenizer.truncation_side != "right":
        reason = "are cut at the end, and the model's tokenizer cuts at the start"
    else:
        return True
    _log_once(f"plots are tokenised in training: the prepared token ids {reason}")
    return False


@cache
def _log_once(message: str) -> None:
    logger.warning(message)

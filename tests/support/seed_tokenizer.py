"""A tokenizer for samples that a fake server makes of their seeds."""

from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase


class _Seeds:
    def decode(self, token_ids: Sequence[int], **_: bool) -> str:
        return "seed " + " ".join(map(str, token_ids))


def seed_tokenizer() -> PreTrainedTokenizerBase:
    """Spells tokens (7, 8) as "seed 7 8"."""
    return cast(PreTrainedTokenizerBase, _Seeds())

"""The demo model's text encoder: one learned vector per word of its vocabulary."""

import re

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

PAD, UNKNOWN = 0, 1
NUM_SPECIAL = 2


class WordEncoder(ModelMixin, ConfigMixin):
    """Bag of learned word embeddings, kept in reading order.

    Args:
        vocabulary: the known words; any other word becomes one shared "unknown" vector.
        max_words: words beyond this many are cut, shorter prompts are padded.
    """

    @register_to_config
    def __init__(self, vocabulary: list[str], dim: int = 192, max_words: int = 8) -> None:
        super().__init__()
        del max_words  # read from the configuration
        self.index = {word: i + NUM_SPECIAL for i, word in enumerate(vocabulary)}
        self.words = nn.Embedding(len(vocabulary) + NUM_SPECIAL, dim)

    def tokenize(self, prompts: list[str]) -> Tensor:
        """Word indices of `prompts`, with shape ``(B, max_words)``."""
        length = self.config["max_words"]
        ids = torch.full((len(prompts), length), PAD)
        for row, prompt in enumerate(prompts):
            for column, word in enumerate(re.findall(r"[a-z0-9]+", prompt.lower())[:length]):
                ids[row, column] = self.index.get(word, UNKNOWN)
        return ids

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Word vectors ``(B, max_words, dim)`` and their mean over the words present ``(B, dim)``."""
        vectors = self.words(ids)
        present = (ids != PAD).unsqueeze(-1).to(vectors.dtype)
        pooled = (vectors * present).sum(1) / present.sum(1).clamp(min=1)
        return vectors, pooled

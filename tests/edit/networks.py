"""A random network that is cheap to ask: it says of a place what the tokens there and beside it, and the position, come to."""

import torch

from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser, Prediction
from mezzotint.model.visibility import CLEAN


class Shallow(Denoiser):
    """Its cache keeps lengths, as for any network; there is nothing in it to attend to. loud: spread of the logits."""

    def __init__(self, vocab_size, max_length, shift=0, loud=6.0, favourites=()):
        super().__init__(ModelConfig(vocab_size, 2, 1, 1, 1, 2, 2, max_length), shift)
        random = torch.Generator().manual_seed(0)
        self.here, self.left, self.right = (
            loud * torch.randn(vocab_size, vocab_size, generator=random) for _ in range(3)
        )
        self.at = loud * torch.randn(64, vocab_size, generator=random)
        for table in (self.here, self.left, self.right, self.at):
            table[:, list(favourites)] *= 1.5
        self.requires_grad_(False)

    def forward(
        self, tokens, places, visible, cache=None, want=None, condition=None, feedback=None, logits=True, sigma=None
    ):  # fmt: skip
        beside = torch.nn.functional.pad(tokens, (1, 1))
        said = self.here[tokens] + self.left[beside[:, :-2]] + self.at[places.position % len(self.at)]
        said = torch.where((places.role == CLEAN)[..., None], said, said + self.right[beside[:, 2:]])
        about = places.position + torch.where(places.role == CLEAN, 1, self.shift)
        if want is not None:
            said = said.gather(1, want[..., None].expand(-1, -1, said.shape[-1]))
            about = about.gather(1, want)
        return Prediction(said, about, said[..., :2])

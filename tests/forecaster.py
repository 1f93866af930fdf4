"""A pipeline that is none of diffusers: it draws time series, its blocks return tuples and have no usual names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LENGTH, WIDTH = 16, 24
CLASSES = 8


class Block(nn.Module):
    """Called as ``block(x, cond, emb)``; returns what the next one is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.feed = nn.Linear(LENGTH, LENGTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, cond: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        x = x + 0.2 * self.mix((x + emb).transpose(1, 2)).transpose(1, 2).tanh()
        return x + 0.2 * self.feed(x + cond).tanh(), cond


class Network(nn.Module):
    """Four blocks between two linear maps, without a final norm."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(1, WIDTH), nn.Linear(WIDTH, 1)
        self.classes, self.time = nn.Embedding(CLASSES, WIDTH), nn.Linear(1, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        """A velocity ``(batch, LENGTH, 1)`` of a series of that shape at a time in 0 to 1."""
        emb, cond, hidden = self.time(t[:, None, None]), self.classes(class_labels)[:, None], self.enter(x)
        for block in self.blocks:
            hidden, cond = block(hidden, cond, emb)
        out: Tensor = self.leave(hidden)
        return out


class Euler:
    """Steps from noise to a series along a velocity."""

    def __init__(self) -> None:
        self.timesteps = torch.empty(0)

    def set_timesteps(self, steps: int) -> None:
        self.timesteps = torch.linspace(1, 0, steps + 1)[:-1]


class Forecaster:
    """Draws series of some classes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.transformer, self.scheduler = Network().eval(), Euler()

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int],
        num_inference_steps: int = 50,
        generator: Any = None,
        output_type: str = "pt",
        return_dict: bool = False,
    ) -> Any:
        """Series ``(batch, LENGTH, 1)``, in a tuple."""
        del output_type, return_dict
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.stack([torch.randn(LENGTH, 1, generator=one) for one in generator])
        labels = torch.tensor(class_labels)
        for time in self.scheduler.timesteps:
            x = x - self.transformer(x, time.expand(len(x)), labels) / num_inference_steps
        return (x,)

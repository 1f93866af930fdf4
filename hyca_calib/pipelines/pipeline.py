"""What is used of a diffusers pipeline."""

from typing import Any, Protocol


class Pipeline(Protocol):
    """A pipeline of diffusers, or one that a user makes like them.

    A call takes the arguments of a job, and of those that diffusers' pipelines share ``num_inference_steps``,
    ``generator``, ``output_type``, ``return_dict`` and, where the pipeline has it, ``callback_on_step_end``.

    Attributes:
        transformer: the network, or the first of several.
        scheduler: steps from one latent to the next.
    """

    transformer: Any
    scheduler: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Sample; what is returned depends on ``output_type`` and ``return_dict``."""

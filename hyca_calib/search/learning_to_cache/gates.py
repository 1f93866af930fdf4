r"""A frozen network whose layers are drawn towards their latest output by gates, and the gates' gradients.

With :math:`\beta` the gate of a layer, f its computation and c the output of the last step on which it ran, the layer
puts out

.. math:: \beta f(h) + (1 - \beta) c,

and the loss of a step is the mean squared difference of the network's output to what it is without gates, both on the
latent of the full run.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.pipelines.frozen import frozen
from hyca_calib.pipelines.inference_mode import outside_inference_mode
from hyca_calib.pipelines.outputs import tensors_of
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.learning_to_cache.rule import HALF
from hyca_calib.search.problem import Problem
from hyca_calib.search.watched_run import Points
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.block_io import streams
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.layers import find_layers
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.attach.proxies import Proxy, placed
from hyca_runtime.calls import CallResolver
from hyca_runtime.errors import AttachError

PutOut = list[tuple[Tensor | None, ...]]
"""What a module put out, in each of its calls."""


class GatedLayer(Proxy):
    """Runs `inner` and keeps what it puts out; with a past, its answer is drawn towards that by its gate.

    Args:
        runs: whether it would run without the relaxation; if not, its past stays what it is.
    """

    def __init__(self, inner: nn.Module, past: PutOut | None, gate: Tensor | None, runs: bool) -> None:
        super().__init__(inner)
        self.past, self.gate, self.runs, self.put_out = past, gate, runs, PutOut()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        values = made = streams(output)
        if self.past and self.gate is not None:
            kept = self.past[len(self.put_out) % len(self.past)]
            values = tuple(self._drawn(new, old, self.gate) for new, old in zip(made, kept, strict=True))
            made = made if self.runs else kept
        self.put_out.append(tuple(None if value is None else value.detach().clone() for value in made))
        return values if isinstance(output, tuple) else values[0]

    def _drawn(self, new: Tensor | None, old: Tensor | None, gate: Tensor) -> Tensor | None:
        if new is None or old is None:
            return new
        if new.shape != old.shape:
            raise AttachError(f"what {type(self.own).__name__} puts out changes its shape during the run")
        return torch.lerp(old.float(), new.float(), gate.to(new.device)).to(new.dtype)


class GatedRun:
    """Full runs, on some steps of which the gradients of gates are taken.

    Args:
        layers: one for each gate of a step.
        steps: that have gates.
    """

    def __init__(self, pipe: Any, problem: Problem, layers: Points, steps: Sequence[int]) -> None:
        self._pipe, self._problem = pipe, problem
        self._module = find_transformer(pipe, problem.trace.attributes.model.component)
        self._attachment = Attachment(self._module, {})
        found = [find_layers(self._module, point.kind, point.path) for point in layers.values()]
        self._places = [(number, place) for number, places in enumerate(found) for place in places]
        self._rows = {step: row for row, step in enumerate(steps)}

    def slopes(self, jobs: Sequence[Job], router: Tensor) -> tuple[Tensor, float]:
        """The gradient of the losses of all steps to their gates, ``(step, layer)``, and the sum of these losses.

        Args:
            jobs: of one call of the pipeline.
            router: gates ``(step, layer)``.

        Raises:
            AttachError: no gradient of the network's output reaches the gates, or layers change their shapes.
        """
        slopes, loss = torch.zeros_like(router), 0.0
        past = dict[tuple[str, int], list[PutOut]]()
        resolver = CallResolver(Clock(self._module, self._pipe))

        def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal loss
            call = resolver.resolve(args, kwargs, self._attachment.context.said.branch)
            if call.progress == "begins":
                past.clear()
            stream, row = (call.branch, call.part), self._rows.get(int(resolver.track.position))
            with torch.no_grad():
                output, put_out = self._through(args, kwargs)
            if row is not None and stream in past:
                gates = router[row].detach().requires_grad_()
                with torch.enable_grad():
                    drawn, put_out = self._through(args, kwargs, past[stream], gates)
                    error = squared_difference(drawn, output) / self._problem.trace.calls
                slopes[row] += self._gradient(error, gates)
                loss += error.item()
            past[stream] = put_out
            return output

        with frozen(self._module):
            self._attachment.install(outside_inference_mode(answer))
            try:
                sample_latents(self._pipe, jobs, self._problem.workload.num_steps, len(jobs))
            finally:
                self._attachment.remove()
        return slopes, loss

    def _through(
        self, args: Any, kwargs: Any, past: list[PutOut] | None = None, gates: Tensor | None = None
    ) -> tuple[Any, list[PutOut]]:
        """The output of a call, and what each module put out; with a past, drawn towards it."""
        runs = [True] * len(self._places) if gates is None else (gates >= HALF).tolist()
        layers = [
            GatedLayer(place.module, past[i] if past else None, None if gates is None else gates[number], runs[number])
            for i, (number, place) in enumerate(self._places)
        ]
        with placed(zip((place for _, place in self._places), layers, strict=True)):
            output, _ = self._attachment.run(args, kwargs, (), {})
        return output, [layer.put_out for layer in layers]

    def _gradient(self, error: Tensor, gates: Tensor) -> Tensor:
        if not error.requires_grad:
            raise AttachError(f"no gradient gets through {type(self._module).__name__}; choose another preset")
        return torch.autograd.grad(error, gates)[0]


def squared_difference(output: Any, wanted: Any) -> Tensor:
    """The mean squared difference of all tensors that two calls of a network returned."""
    pairs = zip(tensors_of(output), tensors_of(wanted), strict=True)
    return torch.stack([(one.float() - other.float()).square().mean() for one, other in pairs]).mean()

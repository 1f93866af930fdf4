"""The weighted sum over the history, the only arithmetic of a predicted step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["weighted_sum"]


def weighted_sum(features: Sequence[Tensor], weights: Tensor) -> Tensor:
    """``sum_k weights[k] * features[k]``, accumulated in float32, in the features' own dtype.

    Args:
        features: tensors of one shape, newest first.
        weights: float32 ``(len(features), ...)``, each row broadcastable to a feature.

    Cost: ``2 * len(features)`` FLOPs for each number of a feature.
    """
    total = features[0].float() * weights[0]
    for feature, weight in zip(features[1:], weights[1:], strict=True):
        total = total.addcmul(feature.float(), weight)
    return total.to(features[0].dtype)

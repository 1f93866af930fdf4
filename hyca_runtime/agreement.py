"""What ranks agree on that hold parts of one sample.

Where a sequence is cut over devices, each rank reads its own part. A rank that computes while another forecasts waits
for it forever, so whatever a decision is made from must be the same number on all of them.
"""

from __future__ import annotations

from torch import Tensor


class Agreement:
    """A process that holds whole samples: what it finds is what counts.

    Attributes:
        alone: whether nobody else decides with it.
    """

    alone = True

    def mean(self, own: Tensor) -> Tensor:
        """The mean over all ranks of what each found, the same on all, as large as `own`."""
        return own

    def everywhere(self, own: Tensor) -> Tensor:
        """Whether something is so on all ranks, the same on all, as large as `own`."""
        return own


ALONE = Agreement()

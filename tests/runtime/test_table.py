"""Numbers in plans: nine digits are what their decimal text is read as, bit for bit."""

from __future__ import annotations

import numpy as np

from hyca_runtime.table import pack_table, unpack_table


def test_digits_are_those_of_the_text() -> None:
    rng = np.random.default_rng(0)
    anything = rng.integers(0, 2**32, 4000, dtype=np.uint32).view("<f4")
    usual = rng.standard_normal(3500) * 10 ** rng.uniform(-6, 3, 3500)
    ties = np.arange(500) + 1_234_567.5  # what is written has more digits than these have
    for values in (anything[np.isfinite(anything)][:3900], usual, ties, [0.0, -0.0, 1.0, -10.0, 0.1, 999_999_999.5]):
        table = np.asarray(values, dtype="<f4")
        assert pack_table(table) == [float(f"{x:.9g}") for x in table]
        assert (unpack_table(pack_table(table)).astype("<f4") == table).all()
        assert (np.signbit(pack_table(table)) == np.signbit(table)).all()

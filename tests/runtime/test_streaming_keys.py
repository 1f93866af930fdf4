"""Which keys and values of the past are kept, and where they then are: functions of tensors alone."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hyca_runtime.errors import HycaError
from hyca_runtime.streaming.decay import DecayMeter, attention_by_distance, fitted_decay
from hyca_runtime.streaming.importance import importance, kept_tokens, redundancy, scores
from hyca_runtime.streaming.key_store import KeyStore
from hyca_runtime.streaming.retention import (
    Important,
    Packed,
    Past,
    Retention,
    RetentionSpec,
    Shape,
    retention_from_spec,
    tokens_of,
)
from hyca_runtime.streaming.rotation import TemporalRotation
from hyca_runtime.streaming.segment import Segment, joined
from hyca_runtime.streaming.shares import decaying_shares, halving_shares, quotas, site_order, token_order

SHAPE = Shape(frames=2, height=4, width=4)
TURN = TemporalRotation(channels=4)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def segment(chunk: int, shape: Shape = SHAPE, channels: int = 6) -> Segment:
    places = torch.arange(chunk * shape.tokens, (chunk + 1) * shape.tokens)[None, None]
    size = (1, 2, shape.tokens, channels)
    return Segment(noise(*size, seed=chunk), noise(*size, seed=100 + chunk), places)


def attended(queries: Tensor, seen: Segment) -> Tensor:
    found: Tensor = torch.nn.functional.scaled_dot_product_attention(queries, seen.keys, seen.values)
    return found


class TestImportance:
    def test_it_is_the_mean_attention_and_its_neighbours(self) -> None:
        queries, keys = noise(2, 3, 5, 6), noise(2, 3, 20, 6, seed=1)
        mean = (queries @ keys.transpose(-1, -2) / math.sqrt(6)).softmax(-1).mean(-2)
        assert torch.allclose(importance(queries, keys, 1), mean, atol=1e-15)
        pooled = importance(queries, keys, 7)
        for token in range(20):
            near = mean[..., max(0, token - 3) : token + 4].amax(-1)
            assert torch.allclose(pooled[..., token], near, atol=1e-15)

    def test_of_queries_that_share_keys_the_largest_product_counts(self) -> None:
        queries, keys = noise(1, 4, 5, 6), noise(1, 2, 9, 6, seed=1)
        products = queries.reshape(1, 2, 2, 5, 6) @ keys[:, :, None].transpose(-1, -2) / math.sqrt(6)
        assert torch.allclose(importance(queries, keys, 1), products.amax(2).softmax(-1).mean(-2), atol=1e-15)

    def test_redundancy_needs_no_matrix_of_all_pairs(self) -> None:
        keys = noise(2, 3, 20, 6)
        unit = keys / keys.norm(dim=-1, keepdim=True)
        cosines = unit @ unit.transpose(-1, -2)
        cosines.diagonal(dim1=-2, dim2=-1).zero_()
        assert (redundancy(keys) - (cosines.sum(-2) / 20).softmax(-1)).abs().max() < 6e-17

    def test_fewer_copies_are_kept_than_by_importance_alone(self) -> None:
        queries, own = noise(1, 2, 8, 6), noise(1, 2, 16, 6, seed=1)
        copied = own[:, :, :4] * 0 + queries.mean(2, keepdim=True)  # what all ask for, four times
        keys = torch.cat([own, copied, copied], 2)

        def copies(weight: float) -> int:
            return int((kept_tokens(scores(queries, keys, weight, 1), 10) >= 16).sum())

        assert copies(1.0) > copies(0.07)

    @pytest.mark.parametrize("unit", [4, 5])
    def test_whole_units_are_kept_by_their_mean(self, unit: int) -> None:
        score = noise(2, 3, 22).float()
        kept = kept_tokens(score, 2 * unit, unit)
        assert kept.shape == (2, 3, 2 * unit)
        for row, of in zip(score.flatten(0, 1), kept.flatten(0, 1), strict=True):
            means = torch.stack([row[i : i + unit].mean() for i in range(0, 22, unit)])
            best = sorted(means.argsort(descending=True)[:2].tolist())
            whole = [token for i in best for token in range(i * unit, min((i + 1) * unit, 22))]
            assert set(whole) <= set(of.tolist())


class TestShares:
    @pytest.mark.parametrize("window", range(1, 8))
    def test_the_published_ones_sum_to_one(self, window: int) -> None:
        shares = halving_shares(window)
        assert sum(shares) == 1
        assert shares[-1] == (shares[-2] if window > 1 else 1)
        assert halving_shares(3) == (0.5, 0.25, 0.25)
        assert sum(decaying_shares(0.8, window)) == pytest.approx(1)
        assert decaying_shares(1.0, 4) == (0.25,) * 4

    def test_what_is_rounded_off_goes_to_the_nearest(self) -> None:
        assert quotas((0.5, 0.25, 0.25), 30, 32) == (16, 7, 7)
        assert quotas((0.5, 0.25, 0.25), 80, 32) == (32, 28, 20)  # no chunk has more than it has
        assert quotas((0.5, 0.5), 500, 32) == (32, 32)

    def test_few_sites_are_spread_over_the_picture(self) -> None:
        order = site_order(4, 4).tolist()
        assert sorted(order) == list(range(16))
        rows, columns = {site // 4 % 2 for site in order[:4]}, {site % 4 % 2 for site in order[:4]}
        assert rows == columns == {0}  # every other row and column
        assert sorted(site_order(3, 5).tolist()) == list(range(15))
        tokens = token_order(*SHAPE)
        assert tokens[:4].tolist() == [order[0], order[0] + 16, order[1], order[1] + 16]


class TestRotation:
    def test_two_turns_are_one(self) -> None:
        keys = noise(1, 2, 5, 6)
        assert torch.allclose(TURN.moved(TURN.moved(keys, 7), -3), TURN.moved(keys, 4), atol=1e-12)
        assert torch.equal(TURN.moved(keys, 0), keys)
        assert torch.equal(TURN.moved(keys, 3)[..., 4:], keys[..., 4:])

    def test_attention_sees_differences_of_time_alone(self) -> None:
        """Keys and queries moved together: the exact shift of a video."""
        queries, seen = noise(1, 2, 5, 6, seed=9), segment(0)
        moved = seen._replace(keys=TURN.moved(seen.keys, 11))
        assert (attended(TURN.moved(queries, 11), moved) - attended(queries, seen)).abs().max() < 1e-12


class TestDecay:
    def test_it_is_found_again(self) -> None:
        rows = [[c * 0.6**d for d in range(1, n)] for c, n in ((0.3, 5), (0.1, 7), (0.7, 3))]
        assert fitted_decay(rows) == pytest.approx(0.6)
        with pytest.raises(ValueError, match="expected attention to two chunks"):
            fitted_decay([[0.4]])

    def test_shares_of_attention_by_distance(self) -> None:
        queries, seen = noise(1, 2, 5, 6, seed=9), joined([segment(0), segment(1), segment(2)])
        found = attention_by_distance(queries, seen.keys, seen.places[0, 0] // SHAPE.tokens, 2)
        weights = (queries @ seen.keys.transpose(-1, -2) / math.sqrt(6)).softmax(-1).mean((0, 1, 2))
        assert torch.allclose(found, weights.reshape(3, -1).sum(1).flip(0))
        meter = DecayMeter()
        meter(3, 2, noise(1, 2, SHAPE.tokens, 6), seen)
        assert sum(meter.means(3)) == pytest.approx(1)
        assert meter.decay(3) > 0


def play(retention: Retention, chunks: int, shape: Shape = SHAPE) -> tuple[KeyStore, list[int]]:
    """A store after so many chunks were finished, and how many tokens it kept after each."""
    store, kept = KeyStore(1, retention, TURN), []
    for chunk in range(chunks):
        store.begin(chunk)
        own = segment(chunk, shape)
        own = own._replace(keys=TURN.moved(own.keys, store.start(chunk, shape.frames) - chunk * shape.frames))
        store.exchange(0, chunk, noise(1, 2, shape.tokens, 6, seed=chunk), own, shape)
        store.finish(chunk)
        kept.append(store.finished_tokens)
    return store, kept


def past_of(store: KeyStore) -> Past:
    return store.layers[0].past


class TestImportant:
    def test_the_budget_is_kept(self) -> None:
        _, kept = play(Important(budget=2), 6)
        assert kept == [32, 64, 96, 96, 96, 96]  # thinned when the next attends
        store, _ = play(Important(budget=9), 6)
        assert [of.chunk for of in past_of(store)] == list(range(6))

    def test_each_head_keeps_its_own(self) -> None:
        store, _ = play(Important(budget=1), 3)
        thinned = past_of(store)[0].segment
        assert thinned.tokens == 32
        assert thinned.places.shape == (1, 2, 32)
        assert not torch.equal(thinned.places[0, 0], thinned.places[0, 1])
        whole = joined([segment(chunk) for chunk in range(3)])
        for head in range(2):
            assert torch.equal(thinned.keys[0, head], whole.keys[0, head, thinned.places[0, head]])
            assert torch.equal(thinned.values[0, head], whole.values[0, head, thinned.places[0, head]])

    @pytest.mark.parametrize("asked", ["chunk", "frame", "token"])
    @pytest.mark.parametrize("unit", ["frame", "chunk"])
    def test_whole_frames_or_chunks_are_kept(self, asked: str, unit: str) -> None:
        store, _ = play(Important(budget=1, asked=asked, unit=unit), 3)  # type: ignore[arg-type]
        places = past_of(store)[0].segment.places[0, 0]
        size = SHAPE.tokens if unit == "chunk" else SHAPE.frame
        assert len({int(place) // size for place in places}) == 32 // size


class TestPacked:
    def test_what_fits_is_kept(self) -> None:
        store, kept = play(Packed(budget=8, window=8), 6)
        assert kept == [32 * n for n in range(1, 7)]
        assert all(torch.equal(of.segment.keys, segment(of.chunk).keys) for of in past_of(store))

    def test_memory_is_constant_after_the_fill(self) -> None:
        store, kept = play(Packed(budget=2, window=4, anchors=1), 64)
        assert kept == [32, 64, 96] + [96] * 61
        assert [of.segment.tokens for of in past_of(store)] == [32, 8, 8, 16, 32]
        assert torch.equal(past_of(store)[0].segment.keys, segment(0).keys)  # the anchor, to the bit
        assert torch.equal(past_of(store)[0].segment.values, segment(0).values)
        one, other = (play(Packed(budget=2, window=4), n)[0].nbytes for n in (12, 40))
        assert one == other

    def test_survivors_keep_their_sites_and_are_nested(self) -> None:
        kept = [
            {of.chunk: of.segment.places.flatten().tolist() for of in past_of(play(Packed(1.5, 4), n)[0])}
            for n in range(3, 9)
        ]
        for earlier, later in pairwise(kept):
            for chunk in earlier.keys() & later.keys():
                assert set(later[chunk]) <= set(earlier[chunk])
                assert {place // 32 for place in later[chunk]} <= {chunk}
        tubes = [place % 32 for place in kept[-1][5]]
        assert sorted({site % 16 for site in tubes} | {site % 16 + 16 for site in tubes}) == sorted(tubes)

    def test_what_is_left_has_no_gap_in_time(self) -> None:
        store, _ = play(Packed(budget=2, window=3, anchors=2), 9)
        assert [of.chunk for of in past_of(store)] == [0, 1, 6, 7, 8]
        assert store.gone == 4 * SHAPE.frames
        assert [store.start(chunk, SHAPE.frames) for chunk in (0, 1, 6, 9)] == [0, 2, 4, 10]
        for of in past_of(store)[2:]:
            own = segment(of.chunk)
            first = of.chunk * SHAPE.tokens
            at_once = TURN.moved(own.keys[:, :, of.segment.places.flatten() - first], -store.gone)
            assert (of.segment.keys - at_once).abs().max() < 1e-12

    def test_nearer_than_a_recency_window_where_attention_decays(self) -> None:
        """Queries of many values, keys of chunk d back that attract half as much as those of d - 1, by their norm."""
        queries, whole = noise(1, 2, 32, 6, seed=9), [segment(chunk) for chunk in range(5)]
        whole = [s._replace(values=s.values + 3 * i) for i, s in enumerate(whole)]
        full = attended(queries, joined(whole))

        def error(retention: Packed) -> float:
            store = KeyStore(1, retention, TemporalRotation(0))
            for chunk, own in enumerate(whole):
                store.exchange(0, chunk, queries, own, SHAPE)
                store.finish(chunk)
            seen = joined([of.segment for of in past_of(store)])
            return float((attended(queries, seen) - full).square().mean())

        recency = error(Packed(budget=2, window=2, anchors=0))
        assert error(Packed(budget=2, window=5, anchors=0)) < recency
        assert error(Packed(budget=2, window=5, anchors=0, shares=decaying_shares(1.0, 5))) < recency


@pytest.mark.parametrize(
    ("name", "settings", "fault"),
    [
        ("al", {}, 'unknown retention .al.; did you mean "all"'),
        ("important", {"budget": 0}, "budget must be a whole number, 1 or more, got 0"),
        ("important", {"budget": 1, "pool": 4}, "pool odd"),
        ("important", {"budget": 1, "unit": "row"}, "expected chunk, frame or token"),
        ("important", {"bugdet": 1}, "does not take"),
        ("packed", {"budget": 0, "window": 2}, "a budget above 0"),
        ("packed", {"budget": 1, "window": 2, "shares": [0.2, 0.8]}, "none larger than the one before"),
    ],
)
def test_faults_are_told(name: str, settings: dict[str, object], fault: str) -> None:
    with pytest.raises((HycaError, ValueError), match=fault):
        retention_from_spec(RetentionSpec(name=name, configuration=settings))


@pytest.mark.parametrize("retention", [Important(3, 0.5, asked="frame"), Packed(2.5, 3, shares=(0.6, 0.3, 0.1))])
def test_a_plan_can_name_them(retention: Retention) -> None:
    assert retention_from_spec(RetentionSpec.model_validate_json(retention.spec().model_dump_json())) == retention
    past = past_of(play(retention, 8)[0])
    assert tokens_of(past) <= 4 * SHAPE.tokens

"""Augmentation: what each change does to events, that it stays in range, and that it depends on nothing else."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import blocksim
from blocksim import ArgumentError
from blocksim.data import Augmentation, from_lists, open_dataset
from blocksim.data._randomness import AUGMENT, SHUFFLE, SPLIT, Streams

SAMPLES, CHANNELS = 6, 40
ALL = {
    "blend": 0.5, "stretch": 0.3, "time_shift": 9.0, "time_jitter": 2.0, "channel_shift": 7, "channel_jitter": 3.0,
    "mask_time": 8.0, "mask_channels": 9, "drop": 0.2, "channel_stretch": 0.2, "equalise": 0.5,
}  # fmt: skip


def trains(samples=SAMPLES):
    rng = np.random.default_rng(5)
    counts = [0, *rng.integers(20, 200, samples - 1)]
    return [rng.uniform(5, 45, n) for n in counts], [rng.integers(8, 32, n) for n in counts]


def line(**settings):
    """Three classes of two samples, one of them silent."""
    return from_lists(*trains(), np.arange(SAMPLES) % 3, channels=CHANNELS, **settings)


def camera():
    rng = np.random.default_rng(6)
    n = 600
    file = io.BytesIO()
    np.savez(
        file, x=rng.integers(6, 20, n), y=rng.integers(5, 15, n), p=rng.integers(0, 2, n),
        t_us=rng.integers(0, 40_000, n), offsets=[0, 100, 300, 600], labels=[0, 1, 1], sensor=(20, 26),
    )  # fmt: skip
    return file.getvalue()


@pytest.fixture
def pixels(tmp_path):
    def make(**settings):
        (tmp_path / "camera.npz").write_bytes(camera())
        return open_dataset(tmp_path / "camera.npz", **settings)

    return make


def events(x, sample=0):
    """(steps, channels) of one sample of a batch."""
    step, channel = np.nonzero(x.to_dense()[sample])
    return np.repeat(np.stack([step, channel]), x.to_dense()[sample][step, channel], axis=1)


def varied(data, sample=1, epoch=0, **settings):
    return events(data.batch([sample], augmentation=Augmentation(**settings), epoch=epoch).x)


def same(a, b):
    return (a.shape, a.indptr.tolist(), a.indices.tolist()) == (b.shape, b.indptr.tolist(), b.indices.tolist())


def test_no_change_is_no_change():
    data = line(steps=50)
    plain = data.batch(np.arange(SAMPLES)).x
    assert not Augmentation()
    assert same(data.batch(np.arange(SAMPLES), augmentation=Augmentation()).x, plain)
    # every way through the code, with nothing to draw but zero
    for settings in ({"time_shift": 0.9}, {"time_jitter": 1e-9}, {"channel_jitter": 1e-9}, {"mask_time": 0.9},
                     {"stretch": 1e-9}, {"drop": 1e-30}):  # fmt: skip
        assert Augmentation(**settings)
        assert same(data.batch(np.arange(SAMPLES), augmentation=Augmentation(**settings)).x, plain), settings


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "blend": st.floats(0, 1), "stretch": st.floats(0, 0.999), "time_shift": st.floats(0, 200),
            "time_jitter": st.floats(0, 100), "channel_shift": st.integers(0, 60), "channel_jitter": st.floats(0, 50),
            "mask_time": st.floats(0, 100), "mask_channels": st.integers(0, 60), "drop": st.floats(0, 1),
            "channel_stretch": st.floats(0, 0.999), "equalise": st.floats(0, 10),
        },
    ),
    st.sampled_from([None, 1, 30, 100]),
    st.booleans(),
    st.integers(0, 2**40),
)  # fmt: skip
def test_events_stay_in_range_and_in_order(settings, steps, clip, seed):
    data = line(steps=steps, clip=clip)
    x = data.batch(np.arange(SAMPLES), augmentation=Augmentation(**settings), seed=seed).x
    assert same(blocksim.Events(x.indptr, x.indices, x.shape), x)
    assert steps is None or x.shape[1] == steps
    assert len(x.indices) <= 2 * sum(map(len, trains()[0]))
    assert not clip or x.to_dense().max(initial=0) <= 1
    if steps is None:
        assert x.to_dense()[:, -1].any() or x.shape[1] == 1


@pytest.mark.parametrize("name", ALL)
def test_each_change_alone_keeps_the_order(name):
    data = line(steps=60)
    for seed in range(10):
        x = data.batch(np.arange(SAMPLES), augmentation=Augmentation(**{name: ALL[name]}), seed=seed).x
        assert same(blocksim.Events(x.indptr, x.indices, x.shape), x)
        assert len(x.indices)


@pytest.mark.parametrize("settings", [{}, {"pool": 2}, {"pool": 3, "clip": True}])
def test_pixels_stay_in_range_and_in_order(pixels, settings):
    data = pixels(steps=45, **settings)
    left = 0
    for seed in range(20):
        x = data.batch([0, 1, 2], augmentation=Augmentation(**ALL), seed=seed).x
        assert same(blocksim.Events(x.indptr, x.indices, x.shape), x)
        left += len(x.indices)
    # all masked, a sample may be silent
    assert left > 200


def test_what_is_drawn_depends_on_seed_epoch_and_sample_alone():
    data, settings = line(steps=50), {"augmentation": Augmentation(**ALL), "seed": 3, "epoch": 8}
    together = data.batch(np.arange(SAMPLES), **settings).x
    for other in (data, line(steps=50, cache_bytes=0), pickle.loads(pickle.dumps(data))):
        for sample in (5, 1, 0, 3):
            alone = other.batch([sample], **settings).x
            assert (events(alone) == events(together, sample)).all()
    subset = data.subset([4, 1])  # both samples of the class
    assert (events(subset.batch([0, 1], **settings).x) == events(together, 4)).all()
    others = [
        data.batch([1], augmentation=Augmentation(**ALL), seed=seed, epoch=epoch).x
        for seed, epoch in ((3, 8), (4, 8), (3, 9), (8, 3))
    ]
    assert len({tuple(x.indices) for x in others}) == 4
    batches = {
        int(at): events(batch.x, k)
        for batch in data.batches(4, shuffle=True, **settings)
        for k, at in enumerate(batch.indices)
    }
    for sample in range(SAMPLES):
        assert (batches[sample] == events(together, sample)).all()


def test_streams_of_two_purposes_never_meet():
    draws = [Streams(purpose, 1, 2).generator(3).random(4).tolist() for purpose in (SHUFFLE, AUGMENT, SPLIT)]
    draws += [Streams(AUGMENT, seed, epoch).generator(at).random(4).tolist()
              for seed, epoch, at in ((2, 1, 3), (1, 3, 2), (1, 2, 4))]  # fmt: skip
    assert len({number for one in draws for number in one}) == 24


def test_the_samples_themselves_are_not_changed():
    data = line(steps=50)
    before = data.batch(np.arange(SAMPLES)).x.to_dense()
    for seed in range(5):
        data.batch(np.arange(SAMPLES), augmentation=Augmentation(**ALL), seed=seed)
    np.testing.assert_array_equal(data.batch(np.arange(SAMPLES)).x.to_dense(), before)


def test_a_parameter_does_not_change_what_another_draws():
    # a single event shows where the sample was moved
    data = from_lists([[50.0]], [[50]], [0], channels=100, steps=100)
    for epoch in range(10):
        alone = varied(data, 0, epoch, time_shift=20)
        both = varied(data, 0, epoch, time_shift=20, channel_shift=30, stretch=1e-9, channel_jitter=1e-9)
        assert alone[0] == both[0]
        assert both[1] == varied(data, 0, epoch, channel_shift=30)[1]


@pytest.mark.parametrize(("dt", "time_shift", "most"), [(1.0, 3, 3), (0.1, 0.3, 3), (2.0, 7.9, 3)])
def test_shifts_take_every_whole_number_alike(dt, time_shift, most):
    data = from_lists([[50.0]], [[50]], [0], channels=101, dt=dt)
    at = int(50 / dt + 1e-6)
    moves = np.hstack([varied(data, 0, epoch, time_shift=time_shift, channel_shift=2) for epoch in range(700)])
    steps, channels = moves[0] - at, moves[1] - 50
    assert set(steps) == set(range(-most, most + 1))
    assert set(channels) == set(range(-2, 3))
    assert np.bincount(steps + most).min() > 60  # of 100 expected; 5 standard deviations off
    assert np.bincount(channels + 2).min() > 90  # of 140
    assert abs(np.corrcoef(steps, channels)[0, 1]) < 0.15


def test_shifts_move_the_whole_sample():
    data = line(steps=200)
    plain = events(data.batch([1]).x)
    for epoch in range(20):
        moved = varied(data, 1, epoch, time_shift=4, channel_shift=6)
        assert moved.shape == plain.shape
        assert len(np.unique(moved - plain, axis=1).T) == 1
    # what leads off the channels, or before the start, is lost; nothing comes in at the other end
    counts = set()
    for epoch in range(8):
        moved = varied(data, 1, epoch, time_shift=40, channel_shift=30)
        counts.add(moved.shape[1])
        first = {(int(s), int(c)) for s, c in moved.T}
        if not first:
            continue
        offsets = [
            (s, c)
            for s in range(-40, 41)
            for c in range(-30, 31)
            if first == {(a + s, b + c) for a, b in plain.T.tolist() if a + s >= 0 and 0 <= b + c < CHANNELS}
        ]
        assert offsets
    assert min(counts) < plain.shape[1] // 2


def test_a_camera_is_shifted_in_x_and_y(pixels):
    data = pixels(steps=60)
    plain = np.array(np.unravel_index(events(data.batch([2]).x)[1], (2, 20, 26)))
    shifts = set()
    for epoch in range(40):
        moved = np.array(np.unravel_index(varied(data, 2, epoch, channel_shift=5)[1], (2, 20, 26)))
        assert moved.shape == plain.shape
        (shift,) = np.unique(moved - plain, axis=1).T.tolist()
        assert shift[0] == 0
        shifts.add(tuple(shift[1:]))
    assert {y for y, _ in shifts} == {x for _, x in shifts} == set(range(-5, 6))
    assert len(shifts) > 25  # x and y apart
    for epoch in range(40):  # none wraps round to the next row
        moved = np.array(np.unravel_index(varied(data, 2, epoch, channel_shift=15)[1], (2, 20, 26)))
        if moved.size:
            y, x = ({tuple(pair) for pair in np.unique(moved[[0, axis]], axis=1).T.tolist()} for axis in (1, 2))
            assert max(a for _, a in x) - min(a for _, a in x) <= 13
            assert max(a for _, a in y) - min(a for _, a in y) <= 9


def test_jitter_brings_nothing_back():
    data = from_lists([np.full(400, 5.0)], [np.zeros(400, int)], [0], channels=6)
    shifts = {}
    for epoch in range(12):
        left = varied(data, 0, epoch, channel_shift=2)[1]
        shift = shifts[epoch] = int(left[0]) if len(left) else -1
        assert (varied(data, 0, epoch, channel_shift=2, channel_jitter=3.0).shape[1] > 0) == (shift >= 0)
    assert set(shifts.values()) == {-1, 0, 1, 2}


def test_drop_keeps_the_share_it_says():
    n = 20_000
    rng = np.random.default_rng(0)
    data = from_lists([rng.uniform(0, 100, n)], [rng.integers(0, 50, n)], [0], channels=50, steps=100)
    for drop in (0.1, 0.5, 0.9):
        kept = varied(data, 0, drop=drop).shape[1]
        assert abs(kept - n * (1 - drop)) < 5 * np.sqrt(n * drop * (1 - drop))
    assert varied(data, 0, drop=1.0).shape[1] == 0
    counts = data.batch([0]).x.to_dense().astype(int)
    assert (data.batch([0], augmentation=Augmentation(drop=0.5)).x.to_dense() <= counts).all()


def test_masks_drop_a_band_and_nothing_else():
    times, units = np.meshgrid(np.arange(30) + 0.5, np.arange(20))
    data = from_lists([times.ravel()], [units.ravel()], [0], channels=20)
    seen = []
    for epoch in range(200):
        x = data.batch([0], augmentation=Augmentation(mask_time=6, mask_channels=5), epoch=epoch).x
        dense = np.zeros((30, 20), int)
        dense[: x.shape[1]] = x.to_dense()[0]
        rows, columns = dense.any(axis=1), dense.any(axis=0)
        assert (dense == np.outer(rows, columns)).all()
        for kept, widest in ((rows, 6), (columns, 5)):
            gone = np.flatnonzero(~kept)
            assert len(gone) <= widest
            assert not len(gone) or gone[-1] - gone[0] + 1 == len(gone)
        seen.append(
            (int((~rows).sum()), int((~columns).sum()), *np.flatnonzero(~rows)[:1], *np.flatnonzero(~columns)[:1])
        )
    assert {one[0] for one in seen} == set(range(7))
    assert {one[1] for one in seen} == set(range(6))
    assert len(set(seen)) > 150


def test_a_camera_is_masked_by_a_square_of_both_polarities(pixels):
    data = pixels(dt=50.0)
    plain = data.batch([2]).x.to_dense().reshape(2, 20, 26)
    sizes, corners = set(), []
    for epoch in range(60):
        x = data.batch([2], augmentation=Augmentation(mask_channels=8), epoch=epoch).x
        gone = (plain > 0) & (x.to_dense().reshape(2, 20, 26) == 0)
        if gone.any():
            _, y, x = np.nonzero(gone)
            box = gone[:, y.min() : y.max() + 1, x.min() : x.max() + 1]
            assert max(box.shape[1:]) <= 8
            assert (box == (plain > 0)[:, y.min() : y.max() + 1, x.min() : x.max() + 1]).all()
            sizes.add(max(box.shape[1:]))
            corners.append((int(y.min()), int(x.min())))
    assert max(sizes) > 5
    assert abs(np.corrcoef(np.array(corners).T)[0, 1]) < 0.6


def test_stretch_multiplies_times():
    data = from_lists([np.arange(0, 1000, 10) + 0.5], [np.zeros(100, int)], [0], channels=1)
    plain = events(data.batch([0]).x)[0]
    factors = []
    for epoch in range(100):
        steps = varied(data, 0, epoch, stretch=0.25)[0]
        assert len(steps) == 100
        factor = (steps[-1] - steps[0]) / (plain[-1] - plain[0])
        assert (np.abs(steps + 0.5 - factor * (plain + 0.5)) <= 1.01).all()
        factors.append(factor)
    assert 0.749 < min(factors) < 0.77
    assert 1.23 < max(factors) < 1.251
    assert abs(np.mean(factors) - 1) < 0.075  # 5 standard errors


def test_jitter_has_the_spread_it_says(pixels):
    n = 5000
    data = from_lists([np.full(n, 500.5)], [np.full(n, 500)], [0], channels=1001, steps=1000)
    steps, channels = varied(data, 0, time_jitter=20.0, channel_jitter=30.0)
    for values, sd in ((steps, 20.0), (channels, 30.0)):
        assert len(values) == n
        assert abs(values.mean() - 500) < 5 * sd / np.sqrt(n)
        assert abs(values.std() / sd - 1) < 5 / np.sqrt(2 * n)
    coordinates = np.array(np.unravel_index(varied(pixels(steps=60), 2, channel_jitter=0.5)[1], (2, 20, 26)))
    plain = np.array(np.unravel_index(events(pixels(steps=60).batch([2]).x)[1], (2, 20, 26)))
    assert np.bincount(coordinates[0]).tolist() == np.bincount(plain[0]).tolist()
    for axis in (1, 2):
        assert 0 < abs(coordinates[axis].var() - plain[axis].var() - 1 / 3) < 3


def test_blend_takes_half_of_two_aligned_samples_of_a_class():
    rng = np.random.default_rng(1)
    n, offset = 3000, (30, 12)
    first = rng.integers(40, 80, n), rng.integers(20, 40, n)
    # the same sample elsewhere, and one of another class that nothing may come from
    times = [first[0] + 0.5, first[0] + offset[0] + 0.5, np.full(5, 2.5)]
    units = [first[1], first[1] + offset[1], np.full(5, 1)]
    data = from_lists(times, units, [0, 0, 1], channels=80, steps=150)
    plain = data.batch([0]).x.to_dense()[0].astype(int)
    for epoch in range(5):
        x = data.batch([0], augmentation=Augmentation(blend=1), epoch=epoch).x.to_dense()[0].astype(int)
        assert (x <= 2 * plain).all()
        assert (x > plain).any()
        assert abs(x.sum() - n) < 5 * np.sqrt(2 * n / 4)
    second = data.batch([1], augmentation=Augmentation(blend=1)).x.to_dense()[0].astype(int)
    assert (second[offset[0] :, offset[1] :] <= 2 * plain[: -offset[0], : -offset[1]]).all()
    # one of a kind is left as it is, and so is a silent one
    assert same(data.batch([2], augmentation=Augmentation(blend=1)).x, data.batch([2]).x)
    assert same(line().batch([0], augmentation=Augmentation(blend=1)).x, line().batch([0]).x)


def test_blend_chooses_among_all_others_of_the_class_in_this_part():
    # each sample has a step pattern of its own: where its events are relative to their mean
    times = [np.array([50.5 - k, 50.5 + k] * 50) for k in range(1, 7)]
    data = from_lists(times, [np.zeros(100, int)] * 6, [0, 0, 0, 0, 0, 1], channels=1, steps=100)

    def partners(part, sample):
        found = set()
        for epoch in range(80):
            steps = set(varied(part, sample, epoch, blend=1)[0].tolist())
            found |= {k for k in range(1, 7) if {50 - k, 50 + k} <= steps}
        return found

    assert partners(data, 1) == {1, 2, 3, 4, 5}
    assert partners(data.subset([0, 1, 4, 5]), 1) == {1, 2, 5}


def test_channels_stretch_from_the_lowest_and_pixels_about_the_middle(pixels):
    rng = np.random.default_rng(2)
    units = np.repeat([200, 400], 4000)
    data = from_lists([rng.uniform(0, 50, 8000)], [units], [0], channels=1000, steps=50)
    factors = []
    for epoch in range(40):
        channels = varied(data, 0, epoch, channel_stretch=0.25)[1]
        low, high = channels[channels < 275], channels[channels >= 275]
        assert len(low) == len(high) == 4000
        factor = (high.mean() + 0.5) / 400.5
        # a channel is a place, and an event lies anywhere within it
        assert abs(low.mean() - (200.5 * factor - 0.5)) < 0.2
        assert low.max() - low.min() <= np.ceil(factor)
        factors.append(factor)
    assert 0.75 <= min(factors) < 0.8
    assert 1.2 < max(factors) <= 1.25
    # of a camera, the middle stays where it is; nothing else of the picture does
    file = pixels(steps=45)
    height, width = 20, 26
    for epoch in range(10):
        rows, columns = np.divmod(varied(file, 2, epoch, channel_stretch=0.3)[1] % (height * width), width)
        before = np.divmod(varied(file, 2)[1] % (height * width), width)
        spread = [np.std(after) / np.std(old) for after, old in zip((rows, columns), before, strict=True)]
        assert abs(spread[0] - spread[1]) < 0.1
        for after, old, size, ratio in zip((rows, columns), before, (height, width), spread, strict=True):
            assert abs((after.mean() - (size - 1) / 2) - ratio * (old.mean() - (size - 1) / 2)) < 0.5


def test_equalise_keeps_events_by_a_smooth_spectrum():
    channels, events_each = 64, 400
    rng = np.random.default_rng(3)
    units = np.repeat(np.arange(channels), events_each)
    data = from_lists([rng.uniform(0, 50, len(units))], [units], [0], channels=channels, steps=50)
    spectra = []
    for epoch in range(60):
        kept = np.bincount(varied(data, 0, epoch, equalise=0.7)[1], minlength=channels) / events_each
        assert (kept == 1).sum() >= channels // 4
        spectra.append(kept)
    spectra = np.array(spectra)
    assert spectra.min() < 0.2
    # every channel is weakened at times, and kept at others
    assert (spectra.min(axis=0) < 0.7).all()
    assert (spectra.max(axis=0) > 0.95).all()
    lag = np.corrcoef(spectra[:, :-1].ravel(), spectra[:, 1:].ravel())[0, 1]
    assert lag > 0.95


WRONG = {
    "blend": (1.1, "a probability, 0 to 1"),
    "drop": (-0.1, "a probability, 0 to 1"),
    "stretch": (1.0, "a fraction from 0 to below 1"),
    "time_shift": (-1, "a time of 0 to"),
    "time_jitter": (np.nan, "a time of 0 to"),
    "channel_shift": (1.5, "a whole number"),
    "channel_jitter": ("1", "0 to 1e+06 channels"),
    "mask_time": (np.inf, "a time of 0 to"),
    "mask_channels": (-1, "a whole number"),
    "channel_stretch": (1.0, "a fraction from 0 to below 1"),
    "equalise": (11, "a standard deviation of 0 to 10"),
}


@pytest.mark.parametrize("name", WRONG)
def test_parameters_out_of_range(name):
    value, words = WRONG[name]
    with pytest.raises(ArgumentError) as caught:
        Augmentation(**{name: value})
    assert f"{name}: expected {words}" in str(caught.value)


def test_not_an_augmentation():
    with pytest.raises(ArgumentError, match="augmentation:"):
        line().batch([0], augmentation=0.5)

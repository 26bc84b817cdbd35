"""Metrics of spike trains: against the definitions written out, hand-computed cases, known limits, and elephant."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blocksim import ArgumentError, losses, metrics
from blocksim.trains import SpikeTrains

from .helpers import assert_refused

DURATION = 2000.0


def poisson(rng, trains, rate=20.0, duration=DURATION, step=0.1):
    """Trains on a grid of 0.1 ms, of different rates, some empty."""
    out = [np.sort(rng.choice(int(duration / step), rng.poisson(rate * duration / 1000 * (0.2 + k % 3)), False)) * step
           for k in range(trains)]  # fmt: skip
    return [*out, np.array([]), np.array([duration / 3])]


def jittered(rng, trains, spread=2.0):
    """Repeats of one train, each spike moved a little, some left out."""
    base = np.sort(rng.uniform(50, DURATION - 50, 40))
    return [np.sort((base + rng.normal(0, spread, 40))[rng.random(40) < 0.8]) for _ in range(trains)]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# ------------------------------------------------------------------------------------------------------ van Rossum


def van_rossum_by_pairs(x, y, tau):
    def sums(a, b):
        return np.exp(-np.abs(np.subtract.outer(a, b)) / tau).sum()

    return 0.5 * (sums(x, x) + sums(y, y) - 2 * sums(x, y))


@pytest.mark.parametrize("tau", [0.5, 10.0, 300.0])
def test_van_rossum_is_the_sum_over_pairs(rng, tau):
    models, trials = poisson(rng, 4), poisson(rng, 3)
    found = metrics.van_rossum(models, trials, tau=tau)
    expected = [[van_rossum_by_pairs(x, y, tau) for y in trials] for x in models]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_van_rossum_is_the_loss_at_small_steps(rng):
    models, trials = jittered(rng, 2), jittered(rng, 1)
    dt, steps = 0.02, 125_000
    binned = [SpikeTrains.of(trains).to_steps(dt, steps).T for trains in (models, trials)]
    grid = [SpikeTrains.of(trains).on_grid(dt) for trains in (models, trials)]
    loss = losses.van_rossum(binned[0].astype(float), binned[1], tau=20, dt=dt, backend="numpy").value
    assert metrics.van_rossum(*grid, tau=20).sum() == pytest.approx(loss, rel=2e-3)


def test_van_rossum_of_known_trains():
    a = [10.0, 40.0]
    assert metrics.van_rossum(a, a, tau=5)[0, 0] == 0
    assert metrics.van_rossum([[]], [[]], tau=5)[0, 0] == 0
    assert metrics.van_rossum([1.0], [[]], tau=5)[0, 0] == 0.5
    # one spike moved by d costs 1 - exp(-d / tau)
    assert metrics.van_rossum([1.0], [4.0], tau=5)[0, 0] == pytest.approx(1 - math.exp(-3 / 5), rel=1e-14)
    assert metrics.van_rossum([1.0, 1.0], [[]], tau=5)[0, 0] == 2.0


def test_van_rossum_of_many_spikes_neither_overflows_nor_is_negative():
    many = np.arange(4_000) * 50.0
    assert metrics.van_rossum(many, many, tau=0.01)[0, 0] == 0
    assert metrics.van_rossum(many, many + 10, tau=0.01)[0, 0] == pytest.approx(4_000)


# --------------------------------------------------------------------------------------------- explained variance


def smoothed(train, sigma, dt=0.05, duration=DURATION):
    time = (np.arange(round(duration / dt)) + 0.5) * dt
    return sum((np.exp(-0.5 * ((time - t) / sigma) ** 2) for t in train), np.zeros_like(time))


def explained(x, y):
    """Teeter et al.'s formula on sampled traces."""
    return 1.0 if np.var(x - y) == 0 else (np.var(x) + np.var(y) - np.var(x - y)) / (np.var(x) + np.var(y))


@pytest.mark.parametrize("sigma", [1.0, 10.0, 80.0])
def test_explained_variance_is_that_of_sampled_traces(rng, sigma):
    # spikes at the very edges too: of these, what lies outside the trial does not count
    models, trials = [*jittered(rng, 2), [0.0, DURATION - 1e-6], []], [*jittered(rng, 3), [1.0], []]
    traces = [[smoothed(train, sigma) for train in trains] for trains in (models, trials)]
    expected = [[explained(x, y) for y in traces[1]] for x in traces[0]]
    found = metrics.explained_variance(models, trials, sigma=sigma, duration=DURATION)
    np.testing.assert_allclose(found, expected, atol=5e-5)  # what sampling costs at the edges
    mean = np.mean(traces[1], axis=0)
    limit = np.mean([explained(mean, y) for y in traces[1]])
    assert metrics.reliability(trials, sigma=sigma, duration=DURATION) == pytest.approx(limit, abs=5e-5)
    scores = metrics.explained_temporal_variance(models, trials, sigma=sigma, duration=DURATION)
    np.testing.assert_allclose(scores, np.mean(expected, axis=1) / limit, atol=5e-5)
    raw = metrics.explained_temporal_variance(models, trials, sigma=sigma, duration=DURATION, normalise=False)
    np.testing.assert_allclose(raw, np.mean(expected, axis=1), atol=5e-5)


def test_explained_variance_of_known_trains(rng):
    train = jittered(rng, 1)[0]
    options = {"sigma": 5.0, "duration": DURATION}
    found = metrics.explained_variance([train, []], [train, []], **options)
    np.testing.assert_allclose(found, [[1, 0], [0, 1]], atol=1e-12)
    # two spikes far apart share nothing but their means
    assert abs(metrics.explained_variance([500.0], [1500.0], **options)[0, 0]) < 0.01
    # spikes a distance d apart, far from the edges of a long trial: exp(-d^2 / 4 sigma^2)
    apart = metrics.explained_variance([5e5], [5e5 + 4.0], sigma=5.0, duration=1e6)[0, 0]
    assert apart == pytest.approx(math.exp(-(4**2) / (4 * 25)), abs=1e-4)
    assert metrics.reliability([train], **options) == pytest.approx(1)
    assert metrics.reliability([train] * 4, **options) == pytest.approx(1)
    assert metrics.reliability([[], []], **options) == 1
    np.testing.assert_allclose(metrics.explained_temporal_variance([train], [train] * 3, **options), 1)


def test_a_spike_at_the_very_end_does_not_count_whatever_says_where_the_end_is(rng):
    """Of a trial, of a window, of trains cut before: the same scores."""
    models, trials = [*jittered(rng, 2), [50.0, DURATION]], [*jittered(rng, 3), [DURATION - 1e-10]]
    models[0] = np.append(models[0], DURATION)
    cut = [SpikeTrains.of(trains).window(0, DURATION) for trains in (models, trials)]
    assert [train.counts[-1] for train in cut] == [1, 0]
    whole = [(0.0, DURATION)]
    for score in (
        lambda *pair, **more: metrics.explained_variance(*pair, sigma=5.0, duration=DURATION, **more),
        lambda *pair, **more: metrics.explained_temporal_variance(*pair, duration=DURATION, **more),
        lambda pair, other, **more: metrics.reliability(other, sigma=5.0, duration=DURATION, **more),
    ):
        expected = score(*cut)
        np.testing.assert_array_equal(score(models, trials), expected)
        np.testing.assert_allclose(score(models, trials, windows=whole), expected, rtol=1e-12)
        np.testing.assert_allclose(score(*cut, windows=whole), expected, rtol=1e-12)
    for score in (
        lambda *pair: metrics.gamma_factor(*pair, window=4, duration=DURATION),
        lambda models, trials: metrics.smoothed_rate(models, sigma=5.0, duration=DURATION),
        lambda models, trials: metrics.train_statistics(models, duration=DURATION).rate,
    ):
        np.testing.assert_array_equal(score(models, trials), score(*cut))
    # the end of one window is the start of the next
    train = SpikeTrains.of([10.0])
    assert [train.window(*ends).counts[0] for ends in ((0, 10), (10, 20))] == [0, 1]
    with pytest.raises(ArgumentError, match="0 to 10 ms"):
        metrics.train_statistics([10.001], duration=10)
    with pytest.raises(ArgumentError, match="below 10 ms"):
        train.to_steps(1.0, 10)


def test_single_precision_durations_and_windows_mean_what_was_written():
    trains = [[99.9], [10.0]]
    expected = metrics.explained_variance(
        trains, trials := [[5.0, 99.9]], sigma=5, duration=100.1, windows=[(0.3, 99.9)]
    )
    found = metrics.explained_variance(
        [np.array(train, ">f4") for train in trains], np.array(trials[0], np.float32), sigma=np.float32(5),
        duration=np.float32(100.1), windows=np.array([[0.3, 99.9]], np.float32),
    )  # fmt: skip
    np.testing.assert_array_equal(found, expected)


def test_windows_are_smoothed_by_themselves(rng):
    """The score as Taylor et al. compute it: stretches smoothed one by one, laid end to end."""
    models, trials, sigma = jittered(rng, 2), jittered(rng, 3), 10.0
    windows = [(100, 600), (900.0, 1300), (1900, 2000)]
    traces = [
        [np.concatenate([smoothed(train[(train >= a) & (train < b)] - a, sigma, duration=b - a) for a, b in windows])
         for train in trains] for trains in (models, trials)
    ]  # fmt: skip
    options = {"sigma": sigma, "duration": DURATION, "windows": windows}
    expected = [[explained(x, y) for y in traces[1]] for x in traces[0]]
    np.testing.assert_allclose(metrics.explained_variance(models, trials, **options), expected, atol=5e-5)
    limit = np.mean([explained(np.mean(traces[1], axis=0), y) for y in traces[1]])
    scores = metrics.explained_temporal_variance(models, trials, **options)
    np.testing.assert_allclose(scores, np.mean(expected, axis=1) / limit, atol=1e-4)
    whole = metrics.explained_variance(models, trials, sigma=sigma, duration=DURATION)
    one = metrics.explained_variance(models, trials, sigma=sigma, duration=DURATION, windows=[(0, DURATION)])
    np.testing.assert_allclose(one, whole, rtol=1e-12)


def test_pairs_are_taken_in_pieces(rng, monkeypatch):
    trains = jittered(rng, 4)
    whole = metrics.explained_variance(trains, trains, sigma=20.0, duration=DURATION)
    monkeypatch.setattr(metrics, "_PAIRS", 7)
    np.testing.assert_allclose(metrics.explained_variance(trains, trains, sigma=20.0, duration=DURATION), whole)


def test_smoothed_rate():
    rate = metrics.smoothed_rate([[500.0, 500.0], [500.0]], sigma=10, duration=1000, dt=1.0)
    assert rate.shape == (1000,)
    assert rate.sum() / 1000 == pytest.approx(1.5, rel=1e-9)
    assert rate[500] == pytest.approx(1.5 * 1000 / (math.sqrt(2 * math.pi) * 10), rel=2e-3)
    assert (metrics.smoothed_rate([[]], sigma=10, duration=1000) == 0).all()


# ------------------------------------------------------------------------------------------------- coincidences


def best_matching(x, y, window):
    """Largest number of disjoint pairs, by augmenting paths."""
    partner = {}

    def place(i, tried):
        for j in range(len(y)):
            if abs(x[i] - y[j]) <= window + 1e-9 and j not in tried:
                tried.add(j)
                if j not in partner or place(partner[j], tried):
                    partner[j] = i
                    return True
        return False

    return sum(place(i, set()) for i in range(len(x)))


@pytest.mark.parametrize("window", [0.0, 0.5, 2.0, 30.0])
def test_coincidences_are_those_counted_one_by_one(rng, window):
    models, trials = poisson(rng, 4), poisson(rng, 3)
    pairs = [[(np.abs(np.subtract.outer(x, y)) <= window + 1e-9).sum() for y in trials] for x in models]
    np.testing.assert_array_equal(metrics.coincidences(models, trials, window=window), pairs)
    once = [[best_matching(x, y, window) for y in trials] for x in models]
    np.testing.assert_array_equal(metrics.coincidences(models, trials, window=window, once=True), once)


def test_the_windows_edge_is_in():
    steps = np.arange(2_000)
    for once in (True, False):
        found = metrics.coincidences(steps * 10.1, steps * 10.1 + 0.3, window=0.3, once=once)
        assert found[0, 0] == 2_000
        assert metrics.coincidences(steps * 10.1, steps * 10.1 + 0.4, window=0.3, once=once)[0, 0] == 0


def test_gamma_by_hand():
    # 4 and 5 spikes in 1000 ms, 3 together; by chance 2 * 0.004 / ms * 2 ms * 5
    model, trial = [100.0, 200.0, 300.0, 900.0], [101.0, 199.0, 302.0, 500.0, 600.0]
    chance = 2 * 0.004 * 2 * 5
    expected = (3 - chance) / (4.5 * (1 - 2 * 0.004 * 2))
    found = metrics.gamma_factor(model, trial, window=2, duration=1000)
    assert found[0, 0] == pytest.approx(expected, rel=1e-14)


def test_gamma_at_its_limits(rng):
    train = jittered(rng, 1)[0]
    options = {"window": 2.0, "duration": DURATION}
    found = metrics.gamma_factor([train, []], [train, []], **options)
    np.testing.assert_allclose(found, [[1, 0], [0, 1]], rtol=1e-14)
    # chance is cleared: Poisson trains of any rate come to 0
    trains = poisson(rng, 60)[:-2]
    scores = metrics.gamma_factor(trains[:30], trains[30:], **options)
    assert abs(scores.mean()) < 3 * scores.std() / math.sqrt(60)
    assert np.isnan(metrics.gamma_factor(np.arange(600.0), [1.0], window=2, duration=1000)[0, 0])


def md_star_by_definition(models, trials, window, self_pairs=False):
    def product(x, y):
        return (np.abs(np.subtract.outer(x, y)) <= window + 1e-9).sum()

    data = np.mean([product(x, y) for i, x in enumerate(trials) for j, y in enumerate(trials) if i != j])
    pairs = [product(x, y) for i, x in enumerate(models) for j, y in enumerate(models) if i != j or self_pairs]
    model = np.mean(pairs)
    both = np.mean([product(x, y) for x in models for y in trials])
    return 2 * both / (data + model)


def test_md_star(rng):
    trials, models = jittered(rng, 5), jittered(rng, 3)
    shared = [*models, trials[0]]
    assert metrics.md_star(shared, trials, window=4) == pytest.approx(md_star_by_definition(shared, trials, 4))
    of_toolbox = metrics.md_star(shared, trials, window=4, model_pairs="all")
    assert of_toolbox == pytest.approx(md_star_by_definition(shared, trials, 4, self_pairs=True))
    for pairs in metrics.MODEL_PAIRS:
        alone = metrics.md_star(trials[0], trials, window=4, model_pairs=pairs)
        assert alone == pytest.approx(md_star_by_definition(trials[:1], trials, 4, self_pairs=True))
    early = metrics.md_star([each - 900 for each in shared], [each - 900 for each in trials], window=4)
    assert early == pytest.approx(metrics.md_star(shared, trials, window=4))  # times before a stimulus
    train = trials[0]
    assert metrics.md_star(train, [train] * 3) == 1
    assert metrics.md_star([[]], [[], []]) == 1
    assert metrics.md_star([[]], trials) == 0
    assert metrics.md_star(train, [[], []]) == 0
    assert metrics.md_star([100.0], [[500.0], [800.0]]) == 0


def test_md_star_has_no_bias_from_few_trials(rng):
    """Trains of one process: few trials and many agree, where the biased form rises with their number."""
    few, many = [], []
    base = np.sort(rng.uniform(50, DURATION - 50, 40))
    for _ in range(40):
        trials = [np.sort(base + rng.normal(0, 4, 40)) for _ in range(24)]
        few.append(metrics.md_star(trials[12:], trials[:2]))
        many.append(metrics.md_star(trials[12:], trials[:12]))
    assert np.mean(few) == pytest.approx(1, abs=0.02)
    assert np.mean(many) == pytest.approx(1, abs=0.02)


def test_intrinsic_reliability_by_hand():
    # pairs: 2 together of (2, 3) spikes, 1 of (2, 1), 0 of (3, 1)
    trials = [[10.0, 50.0], [11.0, 52.0, 90.0], [13.0]]
    assert metrics.intrinsic_reliability(trials, window=2) == pytest.approx((2 + 0 + 1) / 3 / 2)
    assert metrics.intrinsic_reliability([[], []]) == 0
    assert metrics.intrinsic_reliability([[5.0], [5.0]]) == 1


# -------------------------------------------------------------------------------------------- rates and intervals


def test_train_statistics_by_hand():
    found = metrics.train_statistics([[0.0, 10.0, 30.0, 40.0], [1.0, 3.0], [7.0], []], duration=500)
    isi = np.array([10.0, 20.0, 10.0])
    np.testing.assert_array_equal(found.count, [4, 2, 1, 0])
    np.testing.assert_array_equal(found.rate, [8, 4, 2, 0])
    np.testing.assert_allclose(found.mean_isi, [40 / 3, 2, np.nan, np.nan])
    np.testing.assert_allclose(found.cv, [isi.std() / isi.mean(), *[np.nan] * 3])
    np.testing.assert_allclose(found.cv2, [2 / 3, *[np.nan] * 3])
    np.testing.assert_allclose(found.lv, [3 / 9, *[np.nan] * 3])


def test_statistics_of_regular_and_poisson_trains(rng):
    regular = metrics.train_statistics(np.arange(200.0) * 5, duration=1000)
    assert (regular.cv[0], regular.cv2[0], regular.lv[0]) == (0, 0, 0)
    random = metrics.train_statistics(np.cumsum(rng.exponential(10, 40_000)), duration=1e6)
    for value in (random.cv, random.cv2, random.lv):
        assert value[0] == pytest.approx(1, abs=0.03)


# --------------------------------------------------------------------------------------------------------- elephant

# what elephant 1.2.1 gave for `REFERENCE`: `test_elephant_gives_these_numbers` repeats it where elephant is installed
REFERENCE = [
    [3.1, 17.4, 26.0, 40.2, 77.7, 120.0, 124.5, 160.3],
    [2.5, 18.8, 41.0, 76.1, 119.2, 140.4],
    [50.0],
]


DISTANCE = [
    [0.0, 2.088143216892557, 3.404339747592413],
    [2.088143216892557, 0.0, 2.631032129876797],
    [3.404339747592413, 2.631032129876797, 0.0],
]
STATISTICS = {
    "cv": [0.6402791049173779, 0.3605118592093931],
    "cv2": [0.8632389787400815, 0.410635206681355],
    "lv": [0.792300114025871, 0.1504772676301872],
}


def test_metrics_are_those_that_elephant_gave():
    # elephant takes the root, and an exponential of unit energy: its distance is the root of twice ours
    found = metrics.van_rossum(REFERENCE, REFERENCE, tau=10)
    np.testing.assert_allclose(np.sqrt(2 * found), DISTANCE, rtol=1e-12, atol=1e-7)
    statistics = metrics.train_statistics(REFERENCE[:2], duration=200)
    for name, values in STATISTICS.items():
        np.testing.assert_allclose(getattr(statistics, name), values, rtol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_elephant_gives_these_numbers():
    pytest.importorskip("elephant", reason="elephant is not installed: python -m pip install 'blocksim[reference]'")
    import elephant.spike_train_dissimilarity as dissimilarity
    import elephant.statistics as elephant
    import neo
    import quantities as pq

    trains = [neo.SpikeTrain(train, units="ms", t_stop=200.0) for train in REFERENCE]
    np.testing.assert_allclose(dissimilarity.van_rossum_distance(trains, 10 * pq.ms), DISTANCE, rtol=1e-10, atol=1e-7)
    for name, values in STATISTICS.items():
        found = [float(getattr(elephant, name)(elephant.isi(train))) for train in trains[:2]]
        np.testing.assert_allclose(found, values, rtol=1e-10)


def wrong(**change):
    return {"models": [1.0], "trials": [[1.0], [2.0]], "duration": 10.0, "window": 2.0} | change


@pytest.mark.parametrize(("call", "words"), [
    (lambda: metrics.gamma_factor(**wrong(models=[11.0])), ["models:", "0 to 10 ms", "11"]),
    (lambda: metrics.gamma_factor(**wrong(trials=[-1.0])), ["trials:", "0 to 10 ms", "-1"]),
    (lambda: metrics.gamma_factor(**wrong(trials=[])), ["trials:", "at least one", "none"]),
    (lambda: metrics.gamma_factor(**wrong(duration=0)), ["duration:", "above 0"]),
    (lambda: metrics.gamma_factor(**wrong(window=-1)), ["window:", "at least 0", "-1"]),
    (lambda: metrics.van_rossum([1.0], [1.0], tau=0), ["tau:", "above 0", "0"]),
    (lambda: metrics.van_rossum(np.zeros((3, 4)), [1.0], tau=1), ["trains:", "(3, 4)"]),
    (lambda: metrics.md_star([1.0], [1.0]), ["two trials", "1 and 1"]),
    (lambda: metrics.md_star([], [[1.0], [1.0]]), ["one model", "0 and 2"]),
    (lambda: metrics.md_star([1.0], [[1.0], [1.0]], model_pairs="some"), ["model_pairs:", "'all'", "'some'"]),
    (lambda: metrics.intrinsic_reliability([1.0]), ["two trials", "1"]),
    (lambda: metrics.explained_variance([1.0], [1.0], sigma=-1, duration=5), ["sigma:", "-1"]),
    (lambda: metrics.reliability([1.0], sigma=1, duration=5, windows=[(2, 6)]), ["windows:", "5 ms", "(2, 6)"]),
    (lambda: metrics.reliability([1.0], sigma=1, duration=5, windows=[]), ["windows:", "[]"]),
    (lambda: metrics.train_statistics([9.0], duration=5), ["0 to 5 ms", "9"]),
])  # fmt: skip
def test_wrong_input_is_named(call, words):
    assert_refused(call, words)


def test_intrinsic_reliability_of_recorded_trials(shared_data):
    """The numbers of ../shared/data/README.md."""
    for file, key, expected in (
        ("l5_cell3", "spike_idx", (0.752, 0.805, 0.858)),
        ("DRN157_5HT", "spike_idx_test", (0.434, 0.611, 0.766)),
        ("DRN158_GABA", "spike_idx_test", (0.579, 0.722, 0.833)),
    ):
        with np.load(shared_data / "recordings" / f"{file}.npz") as data:
            trials = [row[row >= 0] * 0.1 for row in data[key]]
        found = [metrics.intrinsic_reliability(trials, window=window) for window in (2, 4, 8)]
        np.testing.assert_allclose(found, expected, atol=5.1e-4)

"""Pictures: what is in them, whose axes and style they have; and tables, which pandas takes."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import scipy.sparse

from blocksim import LIF, Connection, Layer, plotting
from blocksim.classification import confusion_matrix
from blocksim.ephys import Cell, Recording, step_responses
from blocksim.errors import FileError
from blocksim.metrics import train_statistics
from blocksim.training import evaluate, fit
from blocksim.trains import SpikeTrains

from .helpers import assert_refused
from .training_tasks import network, task, training

matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib, which is not installed")
from matplotlib import colors, rcParams  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

rng = np.random.default_rng(0)
TRAINS = SpikeTrains.of([np.sort(rng.random(30) * 100) for _ in range(4)])
CURVE = step_responses(
    Cell(tau_mem=20, tau_adapt=150, adaptation=0.4, gain=0.01, bias=-0.5, refractory=3), [100.0, 300.0], duration=100
).f_i_curve()
HISTORY = {
    "epoch": np.arange(1, 4), "loss": np.array([3.0, 2, 1]), "accuracy": np.array([0.1, 0.5, 0.9]),
    "validation_loss": np.full(3, np.nan), "validation_accuracy": np.full(3, np.nan), "rate_0": np.full(3, 9.0),
}  # fmt: skip
RECORDED = Recording(np.zeros((2, 500)), rng.normal(-65, 1, (2, 500)), 1000, [[100.0], [200.0]])
# each with its number of panels, and the least that it can be given
PICTURES = {
    "raster": (lambda **to: plotting.raster(TRAINS.times, TRAINS.owners, 4, 100.0, **to), 2, 1),
    "rates": (lambda **to: plotting.rates(TRAINS.times, 4, 100.0, **to), 1, 1),
    "traces": (
        lambda **to: plotting.traces(
            np.zeros((2, 9)), dt=0.1, threshold=np.ones((2, 9)), components={"a": np.ones((2, 9))},
            current=np.ones(9), **to,
        ), 4, 4,
    ),
    "weights": (lambda **to: plotting.weights(np.eye(3), **to), 1, 1),
    "learning_curve": (lambda **to: plotting.learning_curve(HISTORY, 2, **to), 3, 1),
    "confusion": (lambda **to: plotting.confusion(np.array([[8, 2], [0, 10]]), ["a", "b"], **to), 1, 1),
    "f_i_curve": (lambda **to: plotting.f_i_curve({"model": CURVE}, **to), 2, 1),
    "residuals": (lambda **to: plotting.residuals(RECORDED, np.full((2, 500), -65.0), **to), 3, 1),
}  # fmt: skip
SINGLE = ("rates", "weights", "confusion")


def drawn(name, **to):
    result = PICTURES[name][0](**to)
    return (result,) if name in SINGLE else result


@pytest.mark.parametrize("name", PICTURES)
def test_axes_go_in_and_come_out(name):
    _, panels, least = PICTURES[name]
    for count in range(least, panels + 1):
        figure = Figure()
        axes = figure.subplots(1, count, squeeze=False)[0]
        before = [(ax.spines["top"].get_visible(), ax.xaxis.get_gridlines()[0].get_visible()) for ax in axes]
        given = {"ax": axes[0]} if name in SINGLE else {"axes": axes[0] if count == 1 else axes}
        assert list(drawn(name, **given)) == list(axes)
        assert all(ax.has_data() and ax.get_xlabel() + ax.get_ylabel() for ax in axes)
        after = [(ax.spines["top"].get_visible(), ax.xaxis.get_gridlines()[0].get_visible()) for ax in axes]
        assert before == after, "axes of a caller keep their frame and grid"
    own = drawn(name)
    assert len(own) == panels
    assert len({plotting.figure_of(ax) for ax in own}) == 1
    if name not in ("rates", "weights"):
        empty = Figure()
        assert plotting.figure_of(drawn(name, figure=empty)) is empty
    argument = "ax" if name in SINGLE else "axes"
    for wrong in (3, [], "ax", [object()], Figure().subplots(3, 3)):
        assert_refused(lambda: PICTURES[name][0](**{argument: wrong}), [argument, "matplotlib axes"])  # noqa: B023


@pytest.mark.parametrize("name", sorted(set(PICTURES) - {"weights", "confusion"}))
def test_colours_are_those_of_the_callers_style(name):
    style = {"axes.prop_cycle": "cycler('color', ['#ff0000', '#00ff00'])", "axes.spines.top": True}
    with matplotlib.rc_context(style):
        axes = drawn(name)
        assert axes[0].spines["top"].get_visible()
    used = {colors.to_hex(line.get_color()) for ax in axes for line in ax.lines}
    used |= {colors.to_hex(patch.get_facecolor()) for ax in axes for patch in ax.patches}
    assert used & {"#ff0000", "#00ff00"}
    assert not used & set(plotting.COLOURS)
    assert "axes.prop_cycle" in rcParams
    ours = drawn(name)  # where no style was chosen
    assert not ours[0].spines["top"].get_visible()


def test_a_raster_says_what_it_shows():
    top, bottom = plotting.raster(TRAINS.times, TRAINS.owners, 4, 100.0, label="trial", title="four trials")
    assert (top.get_title(), top.get_ylabel(), bottom.get_xlabel()) == ("four trials", "trial", "time (ms)")
    assert top.lines[0].get_xdata().tolist() == TRAINS.times.tolist()
    assert top.get_xlim() == bottom.get_xlim() == (0, 100)
    (only,) = plotting.raster(TRAINS.times, TRAINS.owners, 4, 100.0, axes=Figure().subplots())
    assert only.get_xlabel() == "time (ms)"
    empty = plotting.raster(np.zeros(0), np.zeros(0, int), 4, 100.0)
    assert empty[1].get_ylim()[0] == 0


def test_rates_are_spikes_a_second():
    values = plotting.rates(np.array([1.0, 2.0, 12.0]), 2, 25.0, width=10).patches[0].get_data()
    assert values.values.tolist() == [100.0, 50.0, 0.0]
    assert values.edges.tolist() == [0, 10, 20, 25]
    assert len(plotting.rates(TRAINS.times, 4, 100.0).patches[0].get_data().values) == 20


def test_a_raster_without_matplotlib_has_ticks_and_a_title():
    text = plotting.plain_raster(TRAINS.times, TRAINS.owners, 4, 100.0, title="a & b")
    words = [each.text for each in ElementTree.fromstring(text).iter() if each.text]
    assert words == ["0", "25", "50", "75", "100", "0", "1", "2", "3", "a & b", "time (ms)", "neuron"]
    for count, duration in ((1, 1e-6), (128, 1024.0), (100_000, 1e7)):
        text = plotting.plain_raster(np.zeros(0), np.zeros(0, int), count, duration)
        ticks = [each for each in ElementTree.fromstring(text).iter() if each.text and each.text[0].isdigit()]
        assert 2 <= len(ticks) <= 20


def test_components_are_drawn_in_a_panel_of_their_own():
    components = {"slow": np.arange(9.0), "fast": np.ones((1, 9))}
    voltage, other, current = plotting.traces(np.zeros(9), dt=0.1, components=components, current=np.ones(9))
    assert [line.get_ydata().tolist() for line in other.lines] == [list(range(9)), [1] * 9]
    assert [text.get_text() for text in other.get_legend().get_texts()] == ["slow", "fast"]
    assert len(voltage.lines) == len(current.lines) == 1


def matrix_of(ax):
    return ax.images[0].get_array()


def test_weights_have_a_symmetric_scale_and_blanks():
    array = np.array([[0.5, np.nan, 0.0], [-2.0, 1.0, 0.1]])
    ax = plotting.weights(array)
    assert ax.images[0].get_clim() == (-2, 2)
    assert matrix_of(ax).mask.tolist() == [[False, True, False], [False] * 3]
    assert ax.images[0].colorbar.ax.get_ylabel() == "weight"
    assert plotting.weights(np.zeros((2, 2))).images[0].get_clim() == (-1, 1)
    assert plotting.weights(np.full((2, 2), np.nan)).images[0].get_clim() == (-1, 1)
    sparse = scipy.sparse.csr_array(([0.0, 3.0], ([0, 1], [1, 0])), shape=(2, 2))  # a zero that is stored
    for each in (sparse, Connection(sparse), Layer(LIF(0.9), inputs=[Connection(sparse, delay_steps=2)])):
        shown = matrix_of(plotting.weights(each))
        assert shown.mask.tolist() == [[True, False], [False, True]]
        assert shown.data[1, 0] == 3


def test_weights_of_a_layer_are_chosen_by_name():
    array, square = np.ones((3, 2)), np.eye(2)
    layer = Layer(LIF(0.9), array, recurrent=square)
    assert plotting.weights(layer, name="weights").get_ylabel() == "from input"
    recurrent = plotting.weights(layer, name="recurrent")
    assert recurrent.get_ylabel() == "from neuron"
    assert matrix_of(recurrent).tolist() == square.tolist()
    several = Layer(LIF(0.9), inputs=[Connection(array), Connection(2 * array)], recurrent=[Connection(square, 1)])
    assert plotting.weights(several, name="inputs.1").images[0].get_clim() == (-2, 2)
    assert plotting.weights(several, name="recurrent.0").get_ylabel() == "from neuron"
    assert matrix_of(plotting.weights(Layer(LIF(0.9), recurrent=square))).tolist() == square.tolist()
    assert_refused(lambda: plotting.weights(layer), ["name", "'weights', 'recurrent'", "None"])
    assert_refused(lambda: plotting.weights(several, name="weights"), ["name", "'inputs.0'"])
    assert_refused(lambda: plotting.weights(Layer(LIF(0.9))), ["weights", "one without"])


def test_residuals_are_recorded_less_modelled_away_from_spikes():
    voltage = np.full((2, 400), -60.0)
    voltage[0, 98:109] = 30.0  # the spike, in the window of 2 ms before and 8 after
    voltage[1, 200:300] = -58.0
    recording = Recording(np.zeros((2, 400)), voltage, 1000, [[100.0], []])
    time, over, histogram = plotting.residuals(recording, np.full((2, 400), -61.0))
    assert (
        time.get_title() == f"residual: mean {(300 + 389 + 300) / 789:.3g} mV, rms {np.sqrt((689 + 900) / 789):.3g} mV"
    )
    median = time.lines[0].get_ydata()
    assert median[:98].tolist() == [1] * 98  # of two sweeps
    assert median[103] == 1  # of the sweep without a spike
    assert median[250] == 2  # between 1 and 3
    assert len(median) == 400
    assert np.nansum([bar.get_width() * bar.get_height() for bar in histogram.patches]) == pytest.approx(1)
    assert np.nanmax(over.lines[0].get_ydata()) == 1
    time, *_ = plotting.residuals(recording, np.full((2, 400), -61.0), spikes=[[300.0], [50.0]], window=(9, 99))
    assert np.isnan(time.lines[0].get_ydata()).tolist() == [91 <= step <= 149 for step in range(400)]


def test_residuals_leave_out_the_same_steps_wherever_in_its_step_a_spike_lies():
    for at in (100.0, 100.4, 100.9):
        recording = Recording(np.zeros(400), np.full(400, -60.0), 1000, [[at, 400.0]])
        time, *_ = plotting.residuals(recording, np.full(400, -61.0), spikes=[[at + 50]])
        left_out = np.flatnonzero(np.isnan(time.lines[0].get_ydata())).tolist()
        assert left_out == [*range(98, 109), *range(148, 159), 397, 398, 399], "one at the very end is in the last step"


def test_residuals_of_a_long_recording_are_drawn_in_stretches():
    recording = Recording(np.zeros(100_001), np.full(100_001, -60.0), 10_000, [[]])
    time, *_ = plotting.residuals(recording, np.linspace(-61, -60, 100_001))
    x, y = time.lines[0].get_data()
    assert len(x) == 991
    np.testing.assert_allclose(y, np.interp(x, np.arange(100_001) / 10, 1 - np.arange(100_001) / 100_000), atol=2e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plotting.raster([1.0, 2.0], [0], 1, 9.0), ["rows", "2 times"]),
        (lambda: plotting.raster([1.0], [0.5], 1, 9.0), ["rows", "integer"]),
        (lambda: plotting.raster([1.0], [3], 2, 9.0), ["rows", "from 0 to 1", "3"]),
        (lambda: plotting.plain_raster([1.0], [3], 2, 9.0), ["rows", "from 0 to 1", "3"]),
        (lambda: plotting.raster([np.nan], [0], 2, 9.0), ["times", "nan"]),
        (lambda: plotting.raster([[1.0]], [[0]], 2, 9.0), ["times", "one-dimensional"]),
        (lambda: plotting.raster([1.0], [0], 2, 9.0, figure=3), ["figure", "3"]),
        (lambda: plotting.raster([1.0], [0], 2, 9.0, figure=1, axes=[1]), ["axes, figure", "both"]),
        (lambda: plotting.rates([1.0], 2, 9.0, width=1e-9), ["width", "million"]),
        (lambda: plotting.learning_curve({"epoch": [1]}), ["history", "without loss"]),
        (lambda: plotting.learning_curve(3), ["history", "3"]),
        (lambda: plotting.confusion(np.ones((2, 3), int), "ab"), ["matrix", "classes"]),
        (lambda: plotting.confusion(np.eye(2), ["a", "b"]), ["matrix", "integer"]),
        (lambda: plotting.confusion(np.eye(2, dtype=int), ["a"]), ["names", "2 names"]),
        (lambda: plotting.f_i_curve(CURVE), ["curves", "dict of FICurve"]),
        (lambda: plotting.f_i_curve({"a": 3}), ["curves", "dict of FICurve"]),
        (lambda: plotting.traces(np.zeros((2, 2, 2)), dt=1), ["voltage", "(2, 2, 2)"]),
        (lambda: plotting.traces(np.zeros((101, 2)), dt=1), ["voltage", "at most 100"]),
        (lambda: plotting.traces(np.zeros(5), dt=1, threshold=np.zeros(4)), ["threshold", "(1, 5)"]),
        (lambda: plotting.traces(np.zeros(5), dt=1, current=np.zeros(4)), ["current", "(any, 5)"]),
        (lambda: plotting.traces(np.zeros(5), dt=1, components=np.zeros(5)), ["components", "dict"]),
        (lambda: plotting.traces(np.zeros(5), dt=1, components={"a": [1.0]}), ["components['a']", "(1, 5)"]),
        (lambda: plotting.weights(np.ones(3)), ["weights", "matrix"]),
        (lambda: plotting.weights(np.array([[np.inf]])), ["weights", "inf"]),
        (lambda: plotting.weights(np.eye(2), name="recurrent"), ["name", "Layer"]),
        (lambda: plotting.residuals(np.zeros(9), np.zeros(9)), ["recording", "Recording"]),
        (lambda: plotting.residuals(RECORDED, np.zeros(9)), ["potential", "(2, 500)"]),
        (lambda: plotting.residuals(RECORDED, np.full((2, 500), np.nan)), ["potential", "nan"]),
        (lambda: plotting.residuals(RECORDED, np.zeros((2, 500)), spikes=[[1.0]]), ["spikes", "2 sweeps"]),
        (lambda: plotting.residuals(RECORDED, np.zeros((2, 500)), window=2.0), ["window", "two times"]),
        (lambda: plotting.residuals(RECORDED, np.zeros((2, 500)), window=(500, 500)), ["window", "500 ms", "none"]),
        (lambda: plotting.save(3, "a.png"), ["drawn", "3"]),
    ],
)  # fmt: skip
def test_wrong_input_is_refused(call, words):
    assert_refused(call, words)


def test_what_is_drawn_is_saved(tmp_path):
    for name in PICTURES:
        plotting.save(PICTURES[name][0](), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    figure = Figure()
    part, _ = figure.subfigures(1, 2)
    ax = plotting.rates(TRAINS.times, 4, 100.0, ax=part.subplots())
    assert plotting.figure_of(ax) is figure
    plotting.save(figure, tmp_path / "figure.svg")
    with pytest.raises(FileError):
        plotting.save(ax, tmp_path / "missing" / "a.png")


def test_tables_go_into_pandas():
    pandas = pytest.importorskip("pandas", reason="needs pandas, which is not installed")
    trains = pandas.DataFrame(TRAINS.table())
    assert list(trains.columns) == ["train", "time_ms"]
    assert trains.groupby("train").size().tolist() == TRAINS.counts.tolist()
    assert len(pandas.DataFrame(SpikeTrains.of([[], []]).table())) == 0
    trained = fit(network(), task(), training(epochs=2), progress=False)
    assert pandas.DataFrame(trained.table())["epoch"].tolist() == [1, 2]
    evaluated = evaluate(network(), task())
    classes = pandas.DataFrame(evaluated.table()).set_index("class")
    assert classes["samples"].sum() == classes["predicted"].sum() == len(evaluated.predicted)
    assert classes["correct"].sum() / classes["samples"].sum() == pytest.approx(evaluated.accuracy)
    assert pandas.DataFrame(CURVE.table())["amplitude_pa"].tolist() == [100, 300]
    assert len(pandas.DataFrame(vars(train_statistics(TRAINS, duration=100)))) == 4


def test_a_table_of_classes_has_nan_where_there_are_none():
    evaluated = evaluate(network(), task())
    matrix = confusion_matrix([0, 0, 1], [0, 1, 1], 3)
    table = type(evaluated)(0.0, 0.0, {}, matrix, np.zeros(3, int), (), 0.0).table()
    np.testing.assert_array_equal(table["recall"], [0.5, 1, np.nan])
    np.testing.assert_array_equal(table["precision"], [1, 0.5, np.nan])


def test_a_table_can_be_changed_without_the_history():
    trained = fit(network(), task(), training(epochs=1), progress=False)
    table = trained.table()
    table["run"] = np.zeros(1)
    assert "run" not in trained.history


@pytest.mark.parametrize("name", ["figure", "figure.xyz", None, 3])
def test_a_picture_has_a_suffix_that_is_known(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = drawn("raster")
    assert_refused(lambda: plotting.save(axes, name), ["path", ".png, .pdf, .svg"])
    assert not list(tmp_path.iterdir())

"""The tutorials: each script runs by itself, warnings are errors, every picture says what it shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
# the last two take both gradients
KEPT = "plain and not paper and not one_thread_and_on_two"
QUICK = ("long_recordings",)

# runs a script as a person would, but that plt.show() looks at the pictures
RUNNER = """
import runpy, sys
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt

shown = []

def show():
    for number in plt.get_fignums():
        figure = plt.figure(number)
        figure.canvas.draw()
        name = f"picture {len(shown) + 1}"
        assert len(figure.get_label()) > 40, f"{name} does not say what it shows: {figure.get_label()!r}"
        assert figure.get_facecolor() == (1, 1, 1, 1), f"{name} is not on white"
        shown.append(figure.get_label())
    plt.close("all")

plt.show = show
runpy.run_path(sys.argv.pop(1), run_name="__main__")  # without arguments
assert shown and not plt.get_fignums(), f"{len(shown)} pictures shown, {len(plt.get_fignums())} not"
"""


def run(command, folder, **environment):
    # one thread: the scripts compute little at a time, for which threads would wait for each other
    settings = {**os.environ, "NUMBA_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=550)


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, marks=() if path.stem in QUICK else pytest.mark.slow, id=path.stem) for path in SCRIPTS],
)
def test_it_runs(script, tmp_path):
    pytest.importorskip("matplotlib")
    if "\nimport torch\n" in script.read_text():
        pytest.importorskip("torch", reason="needs the extra torch (python -m pip install 'blocksim[torch]')")
    done = run([sys.executable, "-W", "error", "-c", RUNNER, str(script)], tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert not list(tmp_path.iterdir()), "files are left behind"


@pytest.mark.slow
def test_the_backend_written_there_passes_the_tests_of_backends(tmp_path):
    """As the page says: registered, it is under this project's own tests; but for those of gradient="paper"."""
    source = (ROOT / "docs" / "tutorials" / "write_a_backend.py").read_text()
    end = source.index("# %%\n# That is all.")
    files = {
        "plain_backend/__init__.py": "from blocksim import BackendEntry\n"
        'ENTRY = BackendEntry("plain_backend.plain", "Plain", (), "")\n',
        "plain_backend/plain.py": source[:end],
        # what pip makes of a distribution's metadata
        "plain_backend-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: plain-backend\nVersion: 1.0\n",
        "plain_backend-1.0.dist-info/entry_points.txt": "[blocksim.backends]\nplain = plain_backend:ENTRY\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    tests = [f"tests/test_{name}.py" for name in ("golden", "exactness", "custom_backend")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", KEPT, *tests]
    done = run(command, ROOT, PYTHONPATH=str(tmp_path), MPLBACKEND="agg", CI="")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = int(done.stdout.split(" passed")[0].split()[-1])
    assert passed > 20, done.stdout[-500:]

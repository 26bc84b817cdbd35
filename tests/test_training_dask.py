"""Data-parallel training on a local cluster of two workers: the same bits as in one process, a worker lost or not."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import blocksim
from blocksim.executors import open_executor, run_tasks
from blocksim.training import fit

from .test_executors import check
from .test_training import PENALTIES, assert_same_training
from .training_tasks import DieOnce, network, task, training

distributed = pytest.importorskip("distributed", reason="needs the extra dask")

pytestmark = [
    pytest.mark.slow,
    # a worker that dies by our hand leaves connections that its neighbours had open
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def cluster():
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    try:
        yield cluster
    finally:
        cluster.close()


def train(choices, **options):
    return fit(network(), task(), choices, backend="numpy", progress=False, **options)


@pytest.mark.parametrize("changes", [{}, {"penalties": PENALTIES}], ids=["plain", "penalties"])
def test_it_equals_one_process_with_as_many_shares(cluster, changes):
    choices = training(shares=3, **changes)
    assert_same_training(train(choices, dask=cluster.scheduler_address), train(choices))


def test_a_lost_worker_s_share_is_redone(cluster, tmp_path):
    here = train(training(shares=3))
    with distributed.Client(cluster) as client:
        marker = tmp_path / "died"
        before = {worker.pid for worker in cluster.workers.values()}
        there = train(training(shares=3, loss=DieOnce(marker, os.getpid())), dask=client)
        assert marker.exists()
        assert {worker.pid for worker in cluster.workers.values()} != before
    assert_same_training(there, here)


def test_a_scheduler_that_dies_is_one_line(tmp_path):
    command = [sys.executable, "-m", "distributed.cli.dask_{}", "--no-dashboard"]
    places = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    scheduler = subprocess.Popen([each.format("scheduler") for each in command] + ["--port", "0"], **places)
    address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
    worker = subprocess.Popen([each.format("worker") for each in command] + [address, "--nthreads", "1"], **places)
    folder = tmp_path / "run"
    try:
        with pytest.raises(blocksim.ExecutorError) as error:
            train(training(epochs=50), dask=address, folder=folder, callbacks=[lambda record: scheduler.kill()])
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.communicate()
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("dask: expected a cluster that lasts until the last task is done; found")
    assert str(error.value).endswith(f"{folder} holds the state: resume goes on")
    resumed = train(training(epochs=50), folder=folder, resume=True)
    assert_same_training(resumed, train(training(epochs=50)))


def test_it_equals_the_whole_batch_to_rounding(cluster):
    there = train(training(epochs=1, shares=3), dask=cluster.scheduler_address)
    here = train(training(epochs=1))
    for name, value in here.last.parameters().items():
        np.testing.assert_allclose(there.last.parameters()[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_tasks_run_on_it(cluster):
    with open_executor(dask=cluster.scheduler_address) as executor:
        check(executor)
        assert os.getpid() not in {outcome.value for outcome in run_tasks(_pid, range(3), executor)}


def test_numba_kernels_run_on_its_workers(cluster):
    """Each in a process of its own: compiled or read from the cache there, parallel loops and all."""
    choices = training(epochs=1, shares=3)
    runs = [
        fit(network(), task(), choices, backend="numba", progress=False, dask=dask)
        for dask in (cluster.scheduler_address, None)
    ]
    assert_same_training(*runs)
    with distributed.Client(cluster) as client:
        compiled = client.run(_compiled_adjoints)
    assert len(compiled) == 2
    assert all(compiled.values())


def _compiled_adjoints():
    from blocksim.backends.numba_cpu import adjoint, narrow

    return sum(len(module.layer_adjoint.dispatcher.signatures) for module in (adjoint, narrow))


def _pid(task):
    return os.getpid()

"""Fits, from commit to commit: a loss with its gradient, a search, and a whole small fit."""

from __future__ import annotations

import numpy as np

from .workloads import require


class Fit:
    """Three windows of 1 s at 0.1 ms, of a synthetic cell; one thread."""

    params = ([1, 16],)
    param_names = ("restarts",)
    timeout = 120

    def setup(self, restarts):
        require("numba")
        import numba

        from blocksim.ephys import Cell, FitConfig, FitData, fit

        numba.set_num_threads(1)
        rng = np.random.default_rng(0)
        current = 180 + 150 * np.repeat(rng.normal(size=(3, 400)), 25, axis=1)
        cell = Cell(tau_mem=12, tau_adapt=80, adaptation=0.6, gain=0.012, bias=-0.6, refractory=3)
        self.data = FitData(current, cell.predict(current, 0.1).spikes, 0.1)
        plain = {"restarts": restarts, "patience": 1000, "generations": 0, "refractory": (3.0,)}
        self.descent = FitConfig(candidates=restarts, epochs=50, **plain)
        self.search = FitConfig(candidates=1024, epochs=0, **plain)
        self.fit = fit
        for config in (self.descent, self.search):
            fit(self.data, config)  # compiles

    def time_fifty_epochs(self, restarts):
        self.fit(self.data, self.descent)

    def time_search_of_1024(self, restarts):
        self.fit(self.data, self.search)

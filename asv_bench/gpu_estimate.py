"""What the GPU's kernels cost on paper: python asv_bench/gpu_estimate.py [--write].

Prints the estimate of docs/performance.md, or writes it there. Registers are measured by NVIDIA's compiler, which needs
no GPU (the package nvidia-cuda-nvrtc-cu12, in the extra `test`); all else is the arithmetic of gpu_model.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]

import gpu_model as model  # noqa: E402
from blocksim.backends.cupy_cuda.kernels import OPTIONS, text  # noqa: E402

from blocksim.surrogates import SURROGATES, get_surrogate  # noqa: E402
from tests.cuda_emulation import nvrtc  # noqa: E402

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
MARKS = ("<!-- gpu_estimate.py -->\n", "<!-- end of gpu_estimate.py -->\n")
ARCHITECTURE = 90
KINDS = sorted({get_surrogate(name).kind for name in SURROGATES})
PLAIN = ("forward", "forward_scan", "leaky_filter", "add_events", "gather_gradient")
WITH_SURROGATE = ("adjoint", "adjoint_of_paper", "adjoint_scan")
DEVICE = model.H100
PAPER = model.Work(batch=64, steps=1024, neurons=128, inputs=1000, density=0.1, refractory=40)


def measured_registers() -> dict[str, tuple[int, int]]:
    """Registers of each kernel in float32: fewest and most over surrogates."""
    library = nvrtc.library()
    if library is None:
        raise SystemExit("gpu_estimate: expected NVIDIA's compiler; python -m pip install 'blocksim[test]'")
    names = [f"{name}<float>" for name in PLAIN] + [f"add_spikes<float, {counts}>" for counts in (0, 1)]
    names += [f"{name}<float, {kind}>" for name in WITH_SURROGATE for kind in KINDS]
    compiled, _ = nvrtc.compile_kernels(library, text(), OPTIONS, names, ARCHITECTURE)
    found: dict[str, list[int]] = {}
    for kernel in compiled:
        if kernel.name in names:  # what is no template is compiled in any case
            found.setdefault(kernel.name.partition("<")[0], []).append(kernel.registers)
    return {name: (min(values), max(values)) for name, values in found.items()}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def span(low: float, high: float) -> str:
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def kernels(registers: dict[str, tuple[int, int]]) -> str:
    rows = []
    of_spikes = model.spikes(PAPER)
    for name, (low, high) in registers.items():
        threads = (model.resident(high, DEVICE), model.resident(low, DEVICE))
        if name in of_spikes:
            memory, cache, additions = of_spikes[name]
            instructions = 3 * additions
        else:
            cost = model.KERNELS["forward, with a tape" if name == "forward" else name]
            memory, cache, instructions = cost.bytes, 0, cost.instructions
        bound = {
            "memory": memory / DEVICE.bandwidth,
            "cache": cache / DEVICE.cache,
            "instructions": instructions / (DEVICE.multiprocessors * DEVICE.lanes * DEVICE.clock),
        }
        slowest = max(bound, key=lambda each: bound[each])
        rows.append([f"`{name}`", span(low, high), span(*threads), f"{memory:.3g}", f"{cache:.3g}",
                     f"{instructions:.3g}", f"{bound[slowest] * 1e12:.3g} ({slowest})"])  # fmt: skip
    return table(
        [
            "kernel",
            "registers",
            "threads a multiprocessor",
            "bytes of memory",
            "of cache",
            "instructions",
            "ps at least",
        ],
        rows,
    )


def launch_counts() -> str:
    rows = []
    for name in ("forward", "adjoint", "products", "weight gradients"):
        row = [name]
        for recurrent in (True, False):
            work = model.Work(64, 1024, 128, 1000, 0.1, 40, recurrent)
            row += [str(model.launches(work, method)[name]) for method in ("blocks", "standard")]
        rows.append(row)
    return table(
        ["launches", "recurrent, blocks", "recurrent, standard", "not recurrent, blocks", "standard"], rows
    )  # fmt: skip


def both(work: model.Work, registers: dict[str, int]) -> list[str]:
    cells = []
    total = {}
    for method in ("blocks", "standard"):
        forward = model.forward_time(work, method, registers, DEVICE)
        total[method] = forward + model.backward_time(work, method, registers, DEVICE)
        cells += [f"{forward * 1e3:.2f}", f"{total[method] * 1e3:.2f}"]
    return [*cells, f"{total['standard'] / total['blocks']:.1f}"]


def grid(registers: dict[str, int]) -> str:
    """asv_bench/grid/paper.py: refractory period, length, batch."""
    rows = []
    cases = [(refractory, 1024, 64) for refractory in range(10, 101, 10)]
    others = [(steps, batch) for steps in (512, 1024, 2048) for batch in (32, 64, 128)]
    cases += [(40, steps, batch) for steps, batch in others if (steps, batch) != (1024, 64)]
    for refractory, steps, batch in cases:
        work = model.Work(batch, steps, 128, 1000, 0.1, refractory)
        rows.append([str(refractory), str(steps), str(batch), *both(work, registers)])
    times = ["blocks, forward", "and backward", "standard, forward", "and backward"]
    return table(["refractory", "steps", "batch", *times, "ratio"], rows)


def layers(registers: dict[str, int]) -> str:
    """asv_bench/grid/paper.py: layers one on the other; those above the first read the spikes of the one below."""
    rows = []
    for neurons in (128, 256, 512):
        for number in (2, 5):
            row = [str(number), str(neurons)]
            total = {}
            for method in ("blocks", "standard"):
                total[method] = 0.0
                for layer in range(number):
                    first = layer == 0
                    work = model.Work(64, 1024, neurons, 1000 if first else neurons, 0.1 if first else 0.015, 40)
                    total[method] += model.forward_time(work, method, registers, DEVICE)
                    total[method] += model.backward_time(work, method, registers, DEVICE)
                    total[method] += 0.0 if first else model.product(work, DEVICE)  # the gradient handed down
                row.append(f"{total[method] * 1e3:.2f}")
            rows.append([*row, f"{total['standard'] / total['blocks']:.1f}"])
    return table(["layers", "neurons", "blocks", "standard", "ratio"], rows)


def scans(registers: dict[str, int]) -> str:
    rows = []
    for units in (1, 64, 1024, 8448, 65536):
        work = model.Work(units, 10_000, 1, 1, 0, 40, recurrent=False)
        row = [str(units)]
        for name, kernel in (("forward", "forward, with a tape"), ("adjoint", "adjoint")):
            row.append(f"{model.dynamics(kernel, work, registers[name], DEVICE) * 1e3:.2f}")
            row.append(f"{model.scan(name, work, registers[name + '_scan'], DEVICE) * 1e3:.2f}")
        rows.append(row)
    return table(["neurons x samples", "forward, sequential", "scan", "adjoint, sequential", "scan"], rows)


def estimate() -> str:
    """The section of the docs."""
    spans = measured_registers()
    most = {name: high for name, (_, high) in spans.items()}
    d = DEVICE
    return f"""\
Device: {d.name}, {d.multiprocessors} multiprocessors at {d.clock / 1e9:.3g} GHz,
{d.bandwidth / 1e12:.3g} TB/s of memory, {d.cache / 1e12:.3g} TB/s of second-level cache,
{d.products / 1e12:.3g} TFLOP/s of products. Assumed: {d.wait:.0f} cycles until a load is there,
{model.SORT / 1e9:.0f} billion events sorted in a second. Of the host, measured on a CPU: {d.launch * 1e6:.0f} us
for a launch, {d.product * 1e6:.0f} us for a product of cuBLAS. The host launches while the device computes, so a pass
takes the longer of the two: without a refractory period, and step by step, that is the host.

For one neuron-step of the paper's layer, float32; registers are the compiler's for compute capability
{ARCHITECTURE / 10}, over all surrogates, and give the threads that a multiprocessor holds (of {d.warps * 32}).
The last column is what a device that is full needs, and which of the three is slowest:

{kernels(spans)}
Launches for a sequence of the paper's layer (T = {PAPER.steps}, refractory period {PAPER.refractory});
products are calls of cuBLAS:

{launch_counts()}
The paper's grid, one layer, in ms (1000 inputs, 128 neurons, events on the device):

{grid(most)}
The same with layers one on the other (refractory period 40, 1024 steps, batch 64), forward and backward, in ms:

{layers(most)}
The scan against the sequential kernels, currents given, 10,000 steps, in ms; launches apart:

{scans(most)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}, between its marks")
    options = parser.parse_args()
    found = estimate()
    if not options.write:
        print(found)
        return
    before, rest = PAGE.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    PAGE.write_text(before + MARKS[0] + "\n" + found + "\n" + MARKS[1] + after)


if __name__ == "__main__":
    main()

"""What a GPU's kernels must do, on paper: bytes, operations, launches; and the time that follows for a device.

Nothing here is measured but the registers, which NVIDIA's compiler tells without a GPU. gpu_estimate.py prints it,
gpu_report.py holds what a GPU did against it. Each constant says where it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

THREADS = 128  # of a block: kernels.py of the backend


@dataclass(frozen=True)
class Device:
    """A device's data sheet; rates are peaks."""

    name: str
    multiprocessors: int
    clock: float  # Hz
    bandwidth: float  # of memory, bytes/s
    cache: float  # bytes/s out of the second-level cache
    products: float  # floating operations/s of a float32 matrix product, without tensor cores
    lanes: int = 128  # float32 operations a multiprocessor starts in a cycle
    registers: int = 65536
    warps: int = 64  # resident on a multiprocessor
    wait: float = 600.0  # cycles until a load from memory is there
    launch: float = 10e-6  # s of the host for one launch, from Python, one after the other
    product: float = 19e-6  # s of the host for one product of cuBLAS that adds in place
    copy: float = 20e9  # bytes/s between host and device


# NVIDIA's data sheet of the H100 SXM: 132 multiprocessors, 3.35 TB/s, 67 TFLOP/s. Of the cache no rate is published:
# 5.5 TB/s is what others measured for reads. Wait and copy are usual figures, to be measured. The host's times were
# measured with the real CuPy on a CPU that interpreted the kernels: 2049 launches took 20 ms, a product by
# cupy.cublas.gemm with beta=1 took 19 us (178 us before it added in place).
H100 = Device("H100 SXM", 132, 1.755e9, 3.35e12, 5.5e12, 67e12)


@dataclass(frozen=True)
class Dynamics:
    """What a neuron-step costs in a kernel of dynamics, float32.

    `bytes`: read and written in memory; `instructions`: of the machine (SASS), counted in compiled kernels where a
    comment says so, else three for each floating operation of the text; `chain`: floating operations that wait for one
    another from one step to the next; `waits`: how often it waits for memory.
    """

    bytes: float
    instructions: int
    chain: int
    waits: int


KERNELS = {
    # a current in, a spike out; with a tape a potential out: forward.cu
    "forward": Dynamics(5, 90, 7, 1),  # counted
    "forward, with a tape": Dynamics(9, 90, 7, 1),  # counted
    # a potential and a gradient in, twice a spike, a gradient out, and 4 + 4 of scratch: adjoint.cu walks a block
    # forward for the adaptation, and back
    "adjoint": Dynamics(22, 144, 10, 2),  # counted
    # the same, and twice the scratch
    "adjoint_of_paper": Dynamics(30, 168, 10, 2),
    # 32 steps of a warp: each of five rounds of a scan is a product and a sum, once more after each spike; no scratch
    "forward_scan": Dynamics(9, 78, 0, 1),
    "adjoint_scan": Dynamics(13, 378, 0, 1),
    "leaky_filter": Dynamics(8, 12, 4, 1),
}
CYCLES = 4  # until a floating operation's result can be used

# A scan takes 32 steps of a unit by a warp: five shuffles and products forward, once more after each spike; backward
# five of six values. Cycles for 32 steps, of a warp alone: 24 for a shuffle and what follows it, assumed.
SCAN_CYCLES = {"forward": 5 * 24 + 20 * CYCLES, "adjoint": 5 * 6 * 8 + 5 * 24 + 40 * CYCLES}


@dataclass(frozen=True)
class Work:
    """A layer's run."""

    batch: int
    steps: int
    neurons: int
    inputs: int
    density: float  # of the input's spikes
    refractory: int
    recurrent: bool = True
    rate: float = 0.015  # spikes of a neuron in a step: of the paper's layer, 121169 in 64 x 1024 x 128

    @property
    def units(self) -> int:
        return self.batch * self.neurons


def resident(registers: int, device: Device) -> int:
    """Threads a multiprocessor holds at once; registers are given to warps by 256."""
    of_a_warp = -(-registers * 32 // 256) * 256
    blocks = min(device.registers // (of_a_warp * THREADS // 32), device.warps * 32 // THREADS)
    return blocks * THREADS


def launches(work: Work, method: str) -> dict[str, int]:
    """Launches of this package's kernels for one sequence; products of cuBLAS are one call each."""
    length = work.refractory + 1 if method == "blocks" else 1
    blocks = -(-work.steps // length) if work.recurrent else 1
    products = max(-(-(work.steps - work.refractory - 1) // length), 0) if work.recurrent else 0
    return {
        "forward": blocks + (blocks if work.recurrent else 0) + 1,  # dynamics, recurrent spikes, the input's events
        "adjoint": blocks,
        "products": products,  # the recurrent term of (7)
        "weight gradients": 2 + (2 if work.recurrent else 0),  # events sorted and gathered; spikes as numbers
    }


def dynamics(kernel: str, work: Work, registers: int, device: Device) -> float:
    """Seconds of the dynamics of a whole sequence, without launches: the slowest of bytes, instructions and waiting."""
    cost = KERNELS[kernel]
    steps = work.units * work.steps
    by_bytes = steps * cost.bytes / device.bandwidth
    by_instructions = steps * cost.instructions / (device.multiprocessors * device.lanes * device.clock)
    waves = -(-work.units // (device.multiprocessors * resident(registers, device)))
    # a thread loads a step's values when it comes to the step: it waits for memory, and then for its own chain
    by_waiting = waves * work.steps * (cost.waits * device.wait + cost.chain * CYCLES) / device.clock
    return max(by_bytes, by_instructions, by_waiting)


def scan(kernel: str, work: Work, registers: int, device: Device) -> float:
    """Seconds of a scan of a whole sequence."""
    spikes = work.rate * 32 if kernel == "forward" else 0.0
    waves = -(-work.units * 32 // (device.multiprocessors * resident(registers, device)))
    cycles = device.wait + SCAN_CYCLES[kernel] * (1 + spikes)
    return waves * -(-work.steps // 32) * cycles / device.clock


def spikes(work: Work) -> dict[str, tuple[float, float, float]]:
    """What the kernels of spikes do for a neuron-step: bytes of memory, of cache, and additions."""
    row = work.inputs * work.density  # events
    recurrent = work.neurons * work.rate
    return {
        "add_events": (8 + 4 * row / work.neurons, 4 * row, row),
        "gather_gradient": (8 * row / work.neurons, 4 * row, row),
        "add_spikes": (8 + 1, 4 * recurrent, recurrent),
    }


def gathered(work: Work, device: Device) -> float:
    """Seconds to gather a row of weights, or of gradients, for each event of the input, from the second-level cache."""
    events = work.batch * work.steps * work.inputs * work.density
    return events * work.neurons * 4 / device.cache


def recurrent(work: Work, device: Device) -> float:
    """Seconds for the currents of recurrent spikes: flags read by each tile of 128 neurons, and rows gathered."""
    if not work.recurrent:
        return 0.0
    rows = work.batch * work.steps
    flags = rows * work.neurons * -(-work.neurons // THREADS)
    return (flags + rows * work.neurons * work.rate * work.neurons * 4) / device.cache


def product(work: Work, device: Device) -> float:
    """Seconds of one dense product of gradients with recurrent weights, at the peak rate."""
    return 2 * work.batch * work.steps * work.neurons**2 / device.products if work.recurrent else 0.0


SORT = 2e9  # pairs of a 64-bit key and value that a radix sort takes in a second; assumed


def sorting(work: Work) -> float:
    """Seconds to sort the events by input, once for each `Events`."""
    return work.batch * work.steps * work.inputs * work.density / SORT


def forward_time(work: Work, method: str, registers: dict[str, int], device: Device) -> float:
    """Seconds of a forward pass with a tape, events on the device."""
    kernel = dynamics("forward, with a tape", work, registers["forward"], device)
    begun = launches(work, method)["forward"] * device.launch
    return max(kernel + recurrent(work, device), begun) + gathered(work, device)


def backward_time(work: Work, method: str, registers: dict[str, int], device: Device) -> float:
    """Seconds of a backward pass: dynamics, the recurrent term, and both weight gradients."""
    count = launches(work, method)
    kernel = dynamics("adjoint", work, registers["adjoint"], device)
    begun = (count["adjoint"] + count["weight gradients"]) * device.launch + count["products"] * device.product
    return max(kernel + product(work, device), begun) + gathered(work, device) + sorting(work) + product(work, device)

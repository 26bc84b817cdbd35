"""Layers and networks as modules of PyTorch: the values and gradients of blocksim's own calls."""

import copy
import doctest
import pickle

import numpy as np
import pytest

import blocksim
from blocksim import ALIF, LIF, Connection, Layer, LeakyReadout, Network, simulate
from blocksim.surrogates import BoxCar

from .helpers import assert_refused
from .test_linear import random_layer

torch = pytest.importorskip("torch", reason="needs the extra torch (python -m pip install 'blocksim[torch]')")
import blocksim.interop.torch as interop  # noqa: E402
from blocksim.interop.torch import Module  # noqa: E402

NARROW = BoxCar(width=1e-9)  # no potential lies in it: gradients are those of potentials with spikes frozen


def double(seed=0, **more):
    rng = np.random.default_rng(seed)
    neuron = ALIF(rng.uniform(0.7, 0.9, 3), rng.uniform(0.7, 0.9, 3), rng.uniform(0.1, 0.3, 3), refractory_steps=2)
    return Layer(neuron, rng.normal(0.3, 0.3, (4, 3)), rng.normal(0.1, 0.1, 3), rng.normal(0, 0.2, (3, 3)), **more)


def network(dtype=np.float32):
    rng = np.random.default_rng(0)

    def weights(*shape):
        return rng.normal(0.2, 0.4, shape).astype(dtype)

    hidden = Layer(ALIF(0.9, 0.95, 0.1, refractory_steps=2), weights(4, 6), recurrent=weights(6, 6) / 4)
    synapses = [blocksim.Exponential(0.8)]
    return Network([hidden, Layer(LIF(0.9), weights(6, 5), synapses=synapses)], LeakyReadout(weights(5, 3), 0.9))


@pytest.mark.parametrize("transforms", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_a_layer_has_the_values_and_gradients_of_a_call(transforms, batched):
    layer = double()
    module = Module(layer, transforms=transforms)
    rng = np.random.default_rng(1)
    x = rng.normal(0.5, 1, (2, 20, 4))[(slice(None) if batched else 0)]
    grad_s, grad_v = rng.normal(size=(2, *x.shape[:-1], 3))
    own = simulate(module.model(), x, tape=True, record=("voltage",))
    tensor = torch.tensor(x, requires_grad=True)
    spikes, voltage, _, _ = module.run(tensor)
    np.testing.assert_array_equal(spikes.detach(), own.spikes)
    np.testing.assert_array_equal(voltage.detach(), own.voltage)
    torch.autograd.backward([spikes, voltage], [torch.tensor(grad_s), torch.tensor(grad_v)])
    gradients = own.backward(grad_s, grad_v)
    np.testing.assert_array_equal(tensor.grad, gradients.x)
    for name, value in gradients.parameters().items():
        known = module._transforms[name]
        parameter = getattr(module, name.replace(".", "_"))
        expected = value if known is None else known.pullback(parameter.detach().numpy(), value)
        np.testing.assert_allclose(parameter.grad, expected, rtol=1e-12, atol=0, err_msg=name)


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in (4, 5))])
def test_gradcheck(seed):
    """Every parameter, the input and the state, of random layers of the family and of ALIF, spikes frozen."""
    rng = np.random.default_rng(seed)
    layer = double(seed) if seed < 2 else random_layer(rng, np.float64)
    module = Module(layer, surrogate=NARROW, detach=())
    x = torch.tensor(rng.normal(0.4, 0.5, (2, 12, 4)), requires_grad=True)
    first = module.run(x[:, :5].detach()).state
    start = tuple(each.detach().clone().requires_grad_(each.numel() > 0 and number not in _spikes(layer))
                  for number, each in enumerate(first))  # fmt: skip
    names = [name for name, _ in module.named_parameters()]

    def voltage(x, *values):
        given = dict(zip(names, values[: len(names)], strict=True))
        return torch.func.functional_call(_Run(module), {f"module.{n}": v for n, v in given.items()},
                                          (x, values[len(names) :]))  # fmt: skip

    parameters = [each.detach().clone().requires_grad_() for each in module.parameters()]
    assert torch.autograd.gradcheck(voltage, (x, *parameters, *start), eps=1e-6, atol=1e-5, rtol=1e-4)


def _spikes(layer):
    """Places in a state of what is no real number: steps, and spikes, whose small changes change nothing."""
    return (2, 3) if layer.is_simple else (4, 6, 7)


class _Run(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, state):
        run = self.module.run(x, state)
        return run.voltage, *(each for each in run.state[:2])


@pytest.mark.parametrize("make", [double, network])
def test_chunks_with_gradients_through_the_state_are_one_run(make):
    module = Module(make() if make is double else make(np.float64), detach=())
    x = torch.tensor(np.random.default_rng(0).normal(0.5, 1, (2, 24, 4)))

    def gradients(cut):
        module.zero_grad()
        whole = x.clone().requires_grad_()
        state, total = None, 0.0
        for part in (whole[:, :cut], whole[:, cut:]) if cut else (whole,):
            run = module.run(part, state)
            state = run.state
            total = total + (run.voltage.sum() + (run.output * 0.3).sum() if run.voltage is not None else 0.0)
            for counts in run.counts:
                total = total + (counts**1).sum() * 0.7
        total = total + sum((each.sum() for each in state if each.is_floating_point()), start=torch.zeros(()))
        total.backward()
        return [whole.grad.clone(), *(each.grad.clone() for each in module.parameters() if each.grad is not None)]

    for one, two in zip(gradients(0), gradients(11), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


def test_a_network_within_a_model_learns():
    torch.manual_seed(0)
    module = Module(network(), surrogate="fast_sigmoid")
    model = torch.nn.Sequential(torch.nn.Linear(7, 4), module)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    x, labels = torch.rand(32, 30, 7), torch.randint(0, 3, (32,))
    x[labels == 1, :, :3] += 1
    x[labels == 2, :, 3:] += 1
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0], losses
    beta = module.model().layers[0].neuron.beta
    assert 0 < beta < 1
    assert beta != 0.9


def test_parameters_may_be_parametrised():
    class Double(torch.nn.Module):
        def forward(self, value):
            return 2 * value

    module = Module(double())
    x = torch.rand(2, 10, 4, dtype=torch.float64)
    expected = module.model().with_parameters({"weights": 2 * module.weights.detach().numpy()})
    torch.nn.utils.parametrize.register_parametrization(module, "weights", Double())
    np.testing.assert_array_equal(module(x).detach(), simulate(expected, x.numpy()).spikes)
    module(x).sum().backward()
    assert module.parametrizations.weights.original.grad.abs().sum() > 0


def test_modules_are_saved_copied_and_pickled():
    module = Module(network())
    x = torch.rand(2, 10, 4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.01
    expected = module(x)
    fresh = Module(network())
    fresh.load_state_dict(module.state_dict())
    for each in (fresh, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(each(x), expected)
    assert set(module.state_dict()) >= {"layers_0_weights", "layers_1_synapses_0_decay", "readout_weights"}


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch warns of itself where it leaves a graph
def test_compiled_models_leave_it_as_it_is():
    module = Module(double())
    model = torch.nn.Sequential(torch.nn.Linear(4, 4).double(), module)
    x = torch.rand(2, 10, 4, dtype=torch.float64)
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(x), model(x))
    compiled(x).sum().backward()
    assert module.weights.grad.abs().sum() > 0


def test_without_gradients_there_is_no_tape():
    module = Module(double())
    x = torch.rand(2, 10, 4, dtype=torch.float64)
    with torch.no_grad():
        assert not module(x).requires_grad
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    assert not module(x).requires_grad


def test_tensors_of_a_run_are_not_those_of_another():
    """Their memory is used again, but not while they are there."""
    module = Module(double())
    x = torch.tensor(np.random.default_rng(0).normal(0.5, 1, (4, 20_000, 4)))
    first = module.run(x)
    assert first.output.nbytes > 1 << 20  # smaller ones have memory of their own
    kept = [first.output.detach().clone(), first.voltage.detach().clone()]
    second = module.run(x[:, :18_000])
    for each in second[:2]:
        each.detach().fill_(7)
    assert torch.equal(first.output, kept[0])
    assert torch.equal(first.voltage, kept[1])
    gradient = torch.autograd.grad(second.output.sum(), module.weights)[0]
    del first, second
    third = module.run(x[:, :18_000])
    assert torch.equal(third.output, kept[0][:, :18_000])
    assert torch.equal(torch.autograd.grad(third.output.sum(), module.weights)[0], gradient)


def test_examples():
    found = doctest.testmod(interop)
    assert found.attempted > 5
    assert not found.failed


def test_currents_and_delays():
    layer = Layer(LIF(np.full(3, 0.9), refractory_steps=1), inputs=[Connection(np.ones((2, 3)) * 0.4, 3)])
    module = Module(layer)
    x = torch.rand(1, 12, 2, dtype=torch.float64, requires_grad=True)
    run = module.run(x)
    run.voltage.sum().backward()
    assert torch.equal(x.grad[:, 9:], torch.zeros(1, 3, 2, dtype=torch.float64))
    assert x.grad[:, :9].abs().sum() > 0
    current = torch.rand(1, 12, 3, dtype=torch.float64, requires_grad=True)
    Module(Layer(LIF(np.full(3, 0.9)))).run(current).voltage.sum().backward()
    assert current.grad.shape == current.shape


@pytest.mark.parametrize("make", [double, network])
def test_tensors_on_a_device_stay_there_GPU(make):
    status = blocksim.available_backends()["cupy"]
    if status != "ready" or not torch.cuda.is_available():
        pytest.skip(f"backend cupy: {status}; PyTorch: {'a GPU' if torch.cuda.is_available() else 'no GPU'}")
    x = torch.tensor(np.random.default_rng(0).random((2, 40, 4)) < 0.4)
    found = []
    for device in ("cpu", "cuda"):
        module = Module(make() if make is double else make(np.float64)).to(device)
        given = x.to(device, torch.float64).requires_grad_()
        first = module.run(given[:, :15])
        second = module.run(given[:, 15:], first.state)
        (first.output.sum() + (second.output * second.output.detach().cos()).sum()).backward()
        assert second.output.device.type == given.grad.device.type == device
        assert all(each.grad.device.type == device for each in module.parameters())
        found.append([first.output, second.output, given.grad, *(each.grad for each in module.parameters())])
    for on_cpu, on_gpu in zip(*found, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-9, atol=1e-9)


def test_what_changed_before_the_backward_pass_is_noticed():
    """A tape keeps the input, and free numbers are differentiated where they are."""
    module = Module(double())
    for change in ("x", "beta"):
        x = torch.rand(2, 10, 4, dtype=torch.float64)
        total = module(x).sum()
        with torch.no_grad():
            (x if change == "x" else module.beta).add_(0.1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            total.backward()


def test_bfloat16_is_computed_in_float32():
    module = Module(network())
    x = (torch.rand(2, 10, 4) < 0.5).bfloat16().requires_grad_()
    found = module(x)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert module.bfloat16()(x.detach()).dtype == torch.float32


def test_what_is_wrong_is_said():
    assert_refused(lambda: Module(3), ["model", "Layer or Network"])
    module = Module(double(), transforms=False)
    assert_refused(lambda: module(np.ones((2, 5, 4))), ["x", "tensor"])
    x = torch.rand(2, 5, 4, dtype=torch.float64)
    assert_refused(lambda: module.run(x, module.run(x).state[:2]), ["state", "2 tensors"])
    assert_refused(lambda: module.run(x, (1, 2, 3, 4)), ["state", "tensors"])
    assert_refused(lambda: module(x.to_sparse()), ["x", "to_dense"])
    assert_refused(lambda: Module(Layer(LIF(0.0), np.ones((2, 2)))), ["beta", "transforms=False"])
    with torch.no_grad():
        module.beta += 1
    assert_refused(lambda: module(x), ["beta", "[0, 1)"])

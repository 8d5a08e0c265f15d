"""The sites of the zoo are MLPs: shown on the running models, without the library."""

import re
from typing import Any

import pytest
import torch

from .family import Family, Site
from .running import hooked, model_of, neurons_last, run, width_in, width_out
from .zoo import FAMILIES

# The contract test uses the zoo in every run; this is the test of the zoo itself.
pytestmark = pytest.mark.slow

EACH = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
WITH_SITES = pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.sites], ids=lambda family: family.name
)
# The last projections of MLPs, by the names that the models of transformers and timm give them.
DOWN = re.compile(
    r"\b(fc2|dense2|pwconv2|pointwise_conv2|point_wise_conv2|c_proj|down_proj|lin2|proj_out|(?<!attention\.)output\.dense"
    r"|linear_down\.linear|output\.conv2|ffn\.conv2\.convolution)$"
)


@WITH_SITES
def test_types_and_widths_agree(family: Family) -> None:
    modules = dict(model_of(family.name).named_modules())
    for site in family.sites:
        assert site.parent in modules
        down = modules[site.down]
        width = width_in(down)
        for name in (*site.ups, site.down):
            assert type(modules[name]).__name__ == site.kind
            assert site.kind != "Conv2d" or modules[name].kernel_size == (1, 1)
        assert {width_out(modules[name]) for name in site.ups} == {2 * width if site.packed else width}
        assert (down.bias is not None) == site.bias
        for name in site.between:
            for tensor in modules[name].parameters():
                assert tensor.numel() % width == 0
                assert width in tensor.shape
        if site.behind:
            assert modules[site.behind].running_mean.numel() == width_out(down)


@EACH
def test_every_mlp_is_a_site_or_excluded(family: Family) -> None:
    names = dict(model_of(family.name).named_modules())

    def excluded(name: str) -> bool:
        return any(name == prefix or name.startswith(f"{prefix}.") for prefix in family.excluded)

    sites = {site.down for site in family.sites}
    assert not {name for name in sites if excluded(name)}
    for name, module in names.items():
        is_linear = type(module).__name__ in ("Linear", "Conv2d", "Conv1D")
        if is_linear and DOWN.search(name) and not re.search(r"att(ention|n)\w*\.(output\.)?\w+$", name):
            assert name in sites or excluded(name), f"{name} is neither a site nor excluded"
    for prefix in family.excluded:
        assert any(name == prefix or name.startswith(f"{prefix}.") for name in names), prefix


@WITH_SITES
def test_a_site_runs_as_often_as_it_says_and_the_task_uses_it(family: Family) -> None:
    """Noise on the output of one MLP changes the output of the task exactly where ``used`` says so."""
    model = model_of(family.name)
    if not family.deterministic:
        pytest.skip("every forward pass differs")
    modules = dict(model.named_modules())
    clean = run(family, model, 1, 1)
    for site in family.sites:
        generator = torch.Generator().manual_seed(0)
        calls = 0

        def noisy(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return output + torch.randn(output.shape, generator=generator)  # noqa: B023

        with hooked(modules[site.down].register_forward_hook(noisy)):
            disturbed = run(family, model, 1, 1)
        assert calls == site.calls, site.down
        assert site.used != all(map(torch.equal, clean, disturbed)), site.down


class Watched:
    """One site: records the inputs of down; then moves neurons of up, and gives down its old inputs."""

    def __init__(self, site: Site, modules: dict[str, Any]) -> None:
        self.site, self.modules = site, modules
        self.width = width_in(modules[site.down])
        self.moved = (0, self.width // 2, self.width - 1)
        self.inputs: list[torch.Tensor] = []
        self.changed: set[int] = set()
        self.call = 0

    def record(self, module: Any, args: tuple[torch.Tensor, ...]) -> None:
        self.inputs.append(args[0].clone())

    def move(self, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        for neuron in self.moved:
            neurons_last(output, self.site.kind)[..., neuron] += 3.0
        return output

    def restore(self, module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        expected = self.inputs[self.call]
        self.call += 1
        difference = neurons_last((args[0] - expected).abs(), self.site.kind).flatten(0, -2).amax(0)
        self.changed |= set(torch.nonzero(difference > 0).flatten().tolist())
        return (expected,)


@WITH_SITES
def test_up_moves_its_neurons_only_and_nothing_else_reads_them(family: Family) -> None:
    """Where some outputs of up change, the same inputs of down change. With those restored, so is the whole output."""
    if not family.deterministic:
        pytest.skip("every forward pass differs")
    for up in range(max(len(site.ups) for site in family.sites)):
        model = model_of(family.name)
        modules = dict(model.named_modules())
        watched = [Watched(site, modules) for site in family.sites]
        with hooked(*(modules[each.site.down].register_forward_pre_hook(each.record) for each in watched)):
            clean = run(family, model, 1, 1)
        moves = [modules[each.site.ups[up]].register_forward_hook(each.move) for each in watched]
        restores = [modules[each.site.down].register_forward_pre_hook(each.restore) for each in watched]
        with hooked(*moves, *restores):
            restored = run(family, model, 1, 1)
        assert all(map(torch.equal, clean, restored)), "something else reads the hidden neurons"
        for each in watched:
            expected = set(each.moved)
            assert each.changed > expected if each.site.mixes else each.changed == expected, each.site.down

"""Run one batch through the model with hooks on every site, and restore the model afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import nn

from hf_vbp.calibration.cotangents import scalar_of
from hf_vbp.calibration.gradients import check_gradients, frozen, no_gradients
from hf_vbp.calibration.padded_pixels import patch_sizes
from hf_vbp.calibration.site_accumulator import SiteAccumulator, half_spans
from hf_vbp.calibration.tokens import Tokens, tokens_of
from hf_vbp.errors import ConfigurationError, NonFiniteError
from hf_vbp.inputs.batch import main_input, model_inputs, patches_by_image
from hf_vbp.inputs.fit import images_of
from hf_vbp.modeling.arithmetic import arithmetic_dtype
from hf_vbp.modeling.precision import eval_mode
from hf_vbp.output_distance import OutputDistance

# Keeps the small gradients of float16 models out of the subnormal range; divided out in float32.
HALF_PRECISION_SCALE = 1024.0
_SEED_STEP = 0x9E3779B97F4A7C15


class HookedModel:
    """A model whose sites pass their activations to accumulators while the context is open.

    On entry the model is put into eval mode and, for the output metric, its parameters stop requiring gradients. On
    exit, also after an error, every flag is restored and all hooks are removed.

    Args:
        model: The model that the sites belong to.
        accumulators: One for each site.
        seed: Seed of the labels or the noise that is drawn for the output metric; ``None`` gathers no metric.
        distance: The distance of outputs whose cotangents are drawn; by default labels of a classifier are drawn.
    """

    def __init__(
        self,
        model: nn.Module,
        accumulators: Sequence[SiteAccumulator],
        seed: int | None,
        distance: OutputDistance | None = None,
    ) -> None:
        self.model, self.accumulators, self.seed, self.distance = model, accumulators, seed, distance
        self.device, self.dtype = device_and_dtype(model)
        self.scale = HALF_PRECISION_SCALE if self.dtype == torch.float16 and seed is not None else 1.0
        self.indices = range(0)
        self.spans: list[tuple[int, int, int]] = []
        self._patches = patch_sizes(getattr(model, "config", None))
        self._inputs: dict[str, Any] = {}
        # Not while a batch is run again for the cause of an error.
        self._needs_gradients = False
        self._leaves: list[torch.Tensor] = []
        self._latest: dict[int, Tokens] = {}
        self._waiting: dict[int, tuple[SiteAccumulator, Tokens, torch.Tensor]] = {}
        self._restore = ExitStack()

    def __enter__(self) -> HookedModel:
        self._restore.enter_context(eval_mode(self.model))
        for accumulator in self.accumulators:
            fc2 = accumulator.site.fc2
            self._restore.callback(fc2.register_forward_pre_hook(self._input_hook(accumulator)).remove)
            if self.seed is not None:
                self._restore.callback(fc2.register_forward_hook(self._output_hook(accumulator)).remove)
        if self.seed is not None:
            self._restore.enter_context(frozen(self.model))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore.close()

    def run(self, batch: Mapping[str, Any], indices: range) -> None:
        """Run the model on one batch.

        Args:
            batch: What the processor made for the images, on any device and of any floating dtype.
            indices: Number of each image in the whole set.

        Raises:
            NonFiniteError: The pixels of an image, the activations of a site or its gradients are not finite; names
                the image and the site.
            StatisticsError: The first dimension of the activations of a site is not the images, or padded pixels
                cannot be assigned to its tokens.
            ConfigurationError: The output metric was requested, but the model predicts no labels.
            UnsupportedModelError: The output metric was requested, but the model runs a site without gradients.
        """
        self.indices, self.spans = indices, half_spans(indices)
        self._inputs = model_inputs(self.model, batch)
        if self.seed is None:
            self._run_without_gradients()
        else:
            self._run_with_gradients(self.seed)
        self._check_finite()

    def _run_without_gradients(self) -> None:
        with torch.no_grad():
            self._forward()

    def _forward(self) -> Any:
        with images_of(self.model, self._inputs):
            return self.model(**self._inputs)

    def _run_with_gradients(self, seed: int) -> None:
        with torch.enable_grad(), ExitStack() as stack:
            for held in (self._leaves, self._latest, self._waiting):
                stack.callback(held.clear)
            self._needs_gradients = True
            try:
                output = self._forward()
            finally:
                self._needs_gradients = False
            # Before the backward pass, whose gradients would be reported in place of their cause.
            self._check_finite()
            scalar = self._scalar(output, seed)
            if not scalar.requires_grad:
                raise no_gradients(self.model, self.accumulators[0].site.name)
            torch.autograd.grad(scalar * self.scale, self._leaves, allow_unused=True)
            # The task does not use these outputs, so their metric is zero.
            for accumulator, hidden_states, output in list(self._waiting.values()):
                self._receive(accumulator, hidden_states, torch.zeros_like(output))

    def _scalar(self, output: Any, seed: int) -> torch.Tensor:
        """Return the scalar whose gradients are gathered: likelihood of drawn labels, or output times noise."""
        if self.distance is not None:
            return scalar_of(self.distance, output, self.indices, seed)
        logits = getattr(output, "logits", None)
        if logits is None or logits.dim() != 2:
            raise ConfigurationError(
                f"The output metric needs a known kind of output, but {type(self.model).__name__} returns "
                "no logits (images, labels). Gather without the metric."
            )
        labels = draw_labels(logits, self.indices, seed).to(logits.device)
        likelihoods: torch.Tensor = (
            logits.to(arithmetic_dtype(logits.dtype)).log_softmax(-1).gather(1, labels[:, None])
        )
        return likelihoods.sum()

    def _input_hook(self, accumulator: SiteAccumulator) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            with torch.no_grad():
                hidden_states = self._by_image(inputs[0].detach(), accumulator)
                accumulator.add(hidden_states, self.spans)
            # The weights of the tokens are known only after the backward pass.
            self._latest[accumulator.site.index] = hidden_states

        return hook

    def _output_hook(self, accumulator: SiteAccumulator) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], Any]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            if self._needs_gradients:
                check_gradients(self.model, accumulator.site.name)
            if not output.requires_grad:
                # The first site, and sites that do not depend on it.
                output = output.detach().requires_grad_()
                self._leaves.append(output)
            hidden_states, call = self._latest.pop(accumulator.site.index), len(self._waiting)
            self._waiting[call] = (accumulator, hidden_states, output.detach())

            def receive(gradients: torch.Tensor) -> None:
                del self._waiting[call]
                self._receive(accumulator, hidden_states, gradients.detach())

            listen: Callable[[Any], Any] = output.register_hook
            listen(receive)
            return output

        return hook

    def _receive(self, accumulator: SiteAccumulator, hidden_states: Tokens, gradients: torch.Tensor) -> None:
        values = gradients.to(arithmetic_dtype(gradients.dtype)) / self.scale
        by_image = self._by_image(values, accumulator)
        finite = by_image.values.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            raise NonFiniteError(
                f"site {accumulator.site.name}: the gradient of the output holds NaN or infinity at "
                f"{self._image(finite)}. Gather the output metric in float32 or bfloat16, or gather without it."
            )
        accumulator.add_gradients(by_image, hidden_states if accumulator.requires.token_weights else None)

    def _by_image(self, values: torch.Tensor, accumulator: SiteAccumulator) -> Tokens:
        site = accumulator.site
        return tokens_of(site.by_neuron(values), self._inputs, len(self.indices), site.name, self._patches)

    def _check_finite(self) -> None:
        # Every accumulator is read, so that none keeps its findings for the next batch.
        unsound = [accumulator.site.name for accumulator in self.accumulators if not accumulator.sound()]
        if not unsound:
            return
        check_finite_pixels(self._inputs, self.indices)
        # Run the batch once more to find the first site and image whose activations are not finite.
        with ExitStack() as stack:
            for accumulator in self.accumulators:
                hook = self._finite_hook(accumulator)
                handle = accumulator.site.fc2.register_forward_pre_hook(hook, prepend=True)
                stack.callback(handle.remove)
            self._run_without_gradients()
        raise NonFiniteError(
            f"site {unsound[0]}: the activations of images {self.indices[0]} to {self.indices[-1]} are finite, but "
            "their squares are not. The model cannot be pruned as it is."
        )

    def _finite_hook(self, accumulator: SiteAccumulator) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            finite = self._by_image(inputs[0], accumulator).values.isfinite().flatten(1).all(1)
            if not bool(finite.all()):
                raise NonFiniteError(
                    f"site {accumulator.site.name}: the activations hold NaN or infinity at {self._image(finite)}. "
                    "Check that image, or load the model in float32 or bfloat16."
                )

        return hook

    def _image(self, finite: torch.Tensor) -> str:
        return f"image {self.indices[int(finite.int().argmin())]} (counted from 0)"


def device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and the floating dtype of a model."""
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    return parameter.device, parameter.dtype


def check_finite_pixels(inputs: Mapping[str, Any], indices: Sequence[int]) -> None:
    """Refuse images that hold NaN or infinity.

    Args:
        inputs: The inputs of the model in its dtype.
        indices: Number of each image in the whole set.

    Raises:
        NonFiniteError: Names the first such image.
    """
    key = main_input(inputs)
    images = inputs[key]
    if patches_by_image(inputs) is not None or not images.is_floating_point():
        return
    finite = images.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise NonFiniteError(
            f"image {indices[int(finite.int().argmin())]} (counted from 0): its {key} hold NaN or infinity in "
            f"{str(images.dtype).removeprefix('torch.')}. Check this image and its preprocessing."
        )


def draw_labels(logits: torch.Tensor, indices: range, seed: int) -> torch.Tensor:
    """Draw a label for each image from the model's own prediction.

    The random number of an image depends only on ``seed`` and on its number in the whole set, so that the labels do
    not depend on batches and processes.

    Args:
        logits: ``(images, labels)``.
        indices: Number of each image.
        seed: Any integer.

    Returns:
        ``(images,)`` int64, on the CPU.
    """
    cumulative = logits.detach().cpu().double().softmax(-1).cumsum(-1)
    drawn = torch.tensor([_uniform(seed, index) for index in indices], dtype=torch.float64)
    # The last sum may be less than 1 by rounding.
    return torch.searchsorted(cumulative, drawn[:, None] * cumulative[:, -1:], right=True).clamp_(
        max=logits.shape[-1] - 1
    )[:, 0]


def _uniform(seed: int, index: int) -> float:
    """Return a number in [0, 1) from SplitMix64 at position ``index`` of the stream ``seed``."""
    mask = (1 << 64) - 1
    state = (_mix(seed & mask) + (index + 1) * _SEED_STEP) & mask
    return (_mix(state) >> 11) / float(1 << 53)


def _mix(state: int) -> int:
    mask = (1 << 64) - 1
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)

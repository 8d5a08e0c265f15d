"""Run one batch through the model with hooks on every site, and restore the model afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn

from hf_vbp.calibration.batch_moments import arithmetic_dtype
from hf_vbp.calibration.site_accumulator import SiteAccumulator, half_spans
from hf_vbp.errors import ConfigurationError, NonFiniteError, StatisticsError
from hf_vbp.inputs.fit import images_of

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
        seed: Seed of the labels that are drawn for the output metric; ``None`` gathers no metric.
    """

    def __init__(self, model: nn.Module, accumulators: Sequence[SiteAccumulator], seed: int | None) -> None:
        self.model, self.accumulators, self.seed = model, accumulators, seed
        self.device, self.dtype = device_and_dtype(model)
        self.scale = HALF_PRECISION_SCALE if self.dtype == torch.float16 and seed is not None else 1.0
        self.indices = range(0)
        self.spans: list[tuple[int, int, int]] = []
        self._first_output: torch.Tensor | None = None
        self._held: dict[int, torch.Tensor] = {}
        self._restore = ExitStack()

    def __enter__(self) -> HookedModel:
        self._restore.enter_context(eval_mode(self.model))
        for accumulator in self.accumulators:
            fc2 = accumulator.site.fc2
            self._restore.callback(fc2.register_forward_pre_hook(self._input_hook(accumulator)).remove)
            if self.seed is not None:
                self._restore.callback(fc2.register_forward_hook(self._output_hook(accumulator)).remove)
        if self.seed is not None:
            for parameter in self.model.parameters():
                self._restore.callback(parameter.requires_grad_, parameter.requires_grad)
            self.model.requires_grad_(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore.close()

    def run(self, pixel_values: torch.Tensor, indices: range) -> None:
        """Run the model on one batch.

        Args:
            pixel_values: ``(images, channels, height, width)``, any device and floating dtype.
            indices: Number of each image in the whole set.

        Raises:
            NonFiniteError: The pixels of an image, the activations of a site or its gradients are not finite; names
                the image and the site.
            StatisticsError: The first dimension of the activations of a site is not the images.
            ConfigurationError: The output metric was requested, but the model predicts no labels.
        """
        self.indices, self.spans = indices, half_spans(indices)
        self._first_output = None
        images = pixel_values.to(self.device, self.dtype)
        if self.seed is None:
            self._run_without_gradients(images)
        else:
            self._run_with_gradients(images, self.seed)
        self._check_finite(images)

    def _run_without_gradients(self, images: torch.Tensor) -> None:
        with torch.inference_mode():
            self._forward(images)

    def _forward(self, images: torch.Tensor) -> Any:
        with images_of(self.model, images):
            return self.model(pixel_values=images)

    def _run_with_gradients(self, images: torch.Tensor, seed: int) -> None:
        with torch.enable_grad(), ExitStack() as stack:
            stack.callback(self._held.clear)
            logits = getattr(self._forward(images), "logits", None)
            # Before the backward pass, whose gradients would be reported in place of their cause.
            self._check_finite(images)
            if logits is None or logits.dim() != 2 or self._first_output is None:
                raise ConfigurationError(
                    f"The output metric needs a model that predicts labels, but {type(self.model).__name__} returns "
                    "no logits (images, labels). Use a model with a classification head, or gather without the metric."
                )
            labels = draw_labels(logits, self.indices, seed).to(logits.device)
            likelihood = logits.to(arithmetic_dtype(logits.dtype)).log_softmax(-1).gather(1, labels[:, None]).sum()
            torch.autograd.grad(likelihood * self.scale, self._first_output)
        self._first_output = None

    def _input_hook(self, accumulator: SiteAccumulator) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            with torch.no_grad():
                hidden_states = self._by_image(inputs[0].detach(), accumulator)
                accumulator.add(hidden_states, self.spans)
            if accumulator.requires.token_weights:
                # The weights are known only after the backward pass.
                self._held[accumulator.site.index] = hidden_states

        return hook

    def _output_hook(self, accumulator: SiteAccumulator) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], Any]:
        def receive(gradients: torch.Tensor) -> None:
            values = gradients.detach().to(arithmetic_dtype(gradients.dtype)) / self.scale
            by_image = self._by_image(values, accumulator)
            finite = by_image.isfinite().flatten(1).all(1)
            if not bool(finite.all()):
                raise NonFiniteError(
                    f"site {accumulator.site.name}: the gradient of the log-likelihood holds NaN or infinity at "
                    f"{self._image(finite)}. Gather the output metric in float32 or bfloat16, or gather without it."
                )
            accumulator.add_gradients(by_image, self._held.pop(accumulator.site.index, None))

        def hook(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            if self._first_output is None:
                output = self._first_output = output.detach().requires_grad_()
            if output.requires_grad:
                listen: Callable[[Any], Any] = output.register_hook
                listen(receive)
            return output

        return hook

    def _by_image(self, values: torch.Tensor, accumulator: SiteAccumulator) -> torch.Tensor:
        images = len(self.indices)
        if values.dim() < 2 or values.shape[0] % images:
            raise StatisticsError(
                f"site {accumulator.site.name}: expected values whose first dimension is the {images} images, got the "
                f"shape {tuple(values.shape)}. Register an adapter for this model, see docs/adapters.md."
            )
        return values.reshape(images, -1, values.shape[-1])

    def _check_finite(self, images: torch.Tensor) -> None:
        # Every accumulator is read, so that none keeps its findings for the next batch.
        unsound = [accumulator.site.name for accumulator in self.accumulators if not accumulator.sound()]
        if not unsound:
            return
        check_finite_pixels(images, self.indices)
        # Run the batch once more to find the first site and image whose activations are not finite.
        with ExitStack() as stack:
            for accumulator in self.accumulators:
                hook = self._finite_hook(accumulator)
                handle = accumulator.site.fc2.register_forward_pre_hook(hook, prepend=True)
                stack.callback(handle.remove)
            self._run_without_gradients(images)
        raise NonFiniteError(
            f"site {unsound[0]}: the activations of images {self.indices[0]} to {self.indices[-1]} are finite, but "
            "their squares are not. The model cannot be pruned as it is."
        )

    def _finite_hook(self, accumulator: SiteAccumulator) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            finite = self._by_image(inputs[0], accumulator).isfinite().flatten(1).all(1)
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


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and restore the mode of each of its modules."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training


def check_finite_pixels(images: torch.Tensor, indices: Sequence[int]) -> None:
    """Refuse images that hold NaN or infinity.

    Args:
        images: ``(images, channels, height, width)`` in the dtype of the model.
        indices: Number of each image in the whole set.

    Raises:
        NonFiniteError: Names the first such image.
    """
    finite = images.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise NonFiniteError(
            f"image {indices[int(finite.int().argmin())]} (counted from 0): its pixel_values hold NaN or infinity in "
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

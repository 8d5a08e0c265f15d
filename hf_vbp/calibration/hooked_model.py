"""One batch through the model with every site listening; the caller's model is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from hf_vbp.calibration.site_accumulator import SiteAccumulator, half_spans
from hf_vbp.calibration.skipping import LastProduct
from hf_vbp.errors import ConfigurationError, NonFiniteError, StatisticsError

# Keeps the small gradients of half-precision models away from the subnormal numbers; divided out in float32.
HALF_PRECISION_SCALE = 1024.0
_SEED_STEP = 0x9E3779B97F4A7C15


class HookedModel:
    """A model whose sites report their activations to accumulators while the context is open.

    On entry the model goes into eval mode and, for the output metric, its parameters stop asking for gradients;
    on exit, also after an error, every flag is as it was and no hook is left.

    Args:
        model: The model that the sites belong to.
        accumulators: One for each site.
        seed: Seed of the labels that are drawn for the output metric; ``None`` gathers no metric.
    """

    def __init__(self, model: nn.Module, accumulators: Sequence[SiteAccumulator], seed: int | None) -> None:
        self.model, self.accumulators, self.seed = model, accumulators, seed
        parameter = next(p for p in model.parameters() if p.is_floating_point())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.scale = HALF_PRECISION_SCALE if self.dtype == torch.float16 and seed is not None else 1.0
        self.indices = range(0)
        self.spans: list[tuple[int, int, int]] = []
        self._first_output: torch.Tensor | None = None
        self._held: dict[int, torch.Tensor] = {}
        self._last_product: LastProduct | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> HookedModel:
        self._training = {module: module.training for module in self.model.modules()}
        self._frozen = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        self.model.eval()
        self._last_product = LastProduct(self.model) if self.seed is None else None
        for accumulator in self.accumulators:
            self._handles.append(accumulator.site.fc2.register_forward_pre_hook(self._input_hook(accumulator)))
            if self.seed is not None:
                self._handles.append(accumulator.site.fc2.register_forward_hook(self._output_hook(accumulator)))
        if self.seed is not None:
            self.model.requires_grad_(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._last_product is not None:
            self._last_product.restore()
        for module, training in self._training.items():
            module.training = training
        for parameter, requires_grad in self._frozen.items():
            parameter.requires_grad_(requires_grad)

    def run(self, pixel_values: torch.Tensor, indices: range) -> None:
        """Send one batch through the model.

        Args:
            pixel_values: ``(images, channels, height, width)``, anywhere and of any floating dtype.
            indices: Number of each image in the whole set.

        Raises:
            NonFiniteError: Names the site and the image whose activations or gradients are not finite.
            StatisticsError: A site does not see the images first.
            ConfigurationError: An output metric was asked of a model that predicts no labels.
        """
        self.indices, self.spans = indices, half_spans(indices)
        self._first_output = None
        images = pixel_values.to(self.device, self.dtype)
        if self.seed is None:
            self._run_without_gradients(images)
        else:
            self._run_with_gradients(images, self.seed)
        if not all(accumulator.sound() for accumulator in self.accumulators):
            self._name_culprit(images)

    def _run_without_gradients(self, images: torch.Tensor) -> None:
        if self._last_product is not None:
            self._last_product.next_batch()
        with torch.inference_mode():
            self.model(pixel_values=images)

    def _run_with_gradients(self, images: torch.Tensor, seed: int) -> None:
        with torch.enable_grad():
            logits = getattr(self.model(pixel_values=images), "logits", None)
            if logits is None or logits.dim() != 2 or self._first_output is None:
                raise ConfigurationError(
                    f"the output metric needs a model that predicts labels, and {type(self.model).__name__} gives no "
                    "logits (images, labels); use one with a classification head, or output_metric=False"
                )
            labels = draw_labels(logits, self.indices, seed).to(logits.device)
            likelihood = logits.float().log_softmax(-1).gather(1, labels[:, None]).sum()
            try:
                torch.autograd.grad(likelihood * self.scale, self._first_output)
            finally:
                self._held.clear()
        self._first_output = None

    def _input_hook(self, accumulator: SiteAccumulator) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            with torch.no_grad():
                hidden_states = self._by_image(inputs[0].detach(), accumulator)
                accumulator.add(hidden_states, self.spans)
            if self._last_product is not None:
                self._last_product.use(accumulator.site)
            if accumulator.depth.weighted:
                # Its weights are known only when the gradients come back.
                self._held[accumulator.site.index] = hidden_states

        return hook

    def _output_hook(self, accumulator: SiteAccumulator) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], Any]:
        def receive(gradients: torch.Tensor) -> None:
            by_image = self._by_image(gradients.detach().float() / self.scale, accumulator)
            finite = by_image.isfinite().flatten(1).all(1)
            if not bool(finite.all()):
                raise NonFiniteError(
                    f"site {accumulator.site.name}: the gradient of the log-likelihood holds NaN or infinity at "
                    f"{self._image(finite)}; gather the output metric in float32 or bfloat16, or leave it out"
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
                f"site {accumulator.site.name} sees values of shape {tuple(values.shape)} for {images} images; "
                "expected the images to come first"
            )
        return values.reshape(images, -1, values.shape[-1])

    def _name_culprit(self, images: torch.Tensor) -> None:
        """Send the batch through once more to find the first site and image that are not finite."""
        handles = [
            accumulator.site.fc2.register_forward_pre_hook(self._finite_hook(accumulator), prepend=True)
            for accumulator in self.accumulators
        ]
        try:
            self._run_without_gradients(images)
        finally:
            for handle in handles:
                handle.remove()
        name = next(a.site.name for a in self.accumulators if not a.sound())
        raise NonFiniteError(
            f"site {name}: activations of images {self.indices[0]} to {self.indices[-1]} are finite but too large to "
            "be squared; the model is not usable as it is"
        )

    def _finite_hook(self, accumulator: SiteAccumulator) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            finite = self._by_image(inputs[0], accumulator).isfinite().flatten(1).all(1)
            if not bool(finite.all()):
                raise NonFiniteError(
                    f"site {accumulator.site.name}: the activations hold NaN or infinity at {self._image(finite)}; "
                    "check that image, or load the model in float32 or bfloat16"
                )

        return hook

    def _image(self, finite: torch.Tensor) -> str:
        position = int(finite.int().argmin())
        return f"image {self.indices[position]} (counted from 0)"


def draw_labels(logits: torch.Tensor, indices: range, seed: int) -> torch.Tensor:
    """Draw a label for each image from the model's own prediction.

    The random number of an image depends on ``seed`` and on its number in the whole set only, so that neither
    batches nor processes change what is drawn.

    Args:
        logits: ``(images, labels)``.
        indices: Number of each image.
        seed: Any integer.

    Returns:
        ``(images,)`` int64, on the CPU.
    """
    cumulative = logits.detach().to("cpu", torch.float64).softmax(-1).cumsum(-1)
    drawn = torch.tensor([_uniform(seed, index) for index in indices], dtype=torch.float64)
    # The last sum may fall short of 1 by rounding.
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

"""The arguments of ``hf-vbp sweep`` that are more than one plain value."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from hf_vbp.config.presets import PRESETS
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import ConfigurationError
from hf_vbp.workflow.sweep_tasks import with_method

DEFAULT_RATIOS = "0.1:0.7:0.1"
MOST_RATIOS = 1000


def parse_ratios(text: str, flag: str = "--ratios") -> list[float]:
    """Read shares in the form ``start:stop:step`` (stop included) or a list ``0.1,0.3,0.5``.

    Args:
        text: The text.
        flag: The option that it was given to.

    Raises:
        ConfigurationError: The text has another form, a share is outside (0, 1), or there are more than 1000.
    """
    form = f"{flag} takes start:stop:step or a list such as 0.1,0.3, got {text!r}."
    try:
        numbers = [float(part) for part in text.split(":" if ":" in text else ",")]
    except ValueError as error:
        raise ConfigurationError(form) from error
    if not all(map(math.isfinite, numbers)) or (":" in text and len(numbers) != 3):
        raise ConfigurationError(form)
    if ":" in text:
        start, stop, step = numbers
        steps = (stop - start) / step + 1e-9 if step > 0 else -1
        if steps >= MOST_RATIOS:
            raise ConfigurationError(
                f"{flag} {text} gives too many shares; at most {MOST_RATIOS} are swept. Choose a larger step."
            )
        numbers = [round(start + index * step, 10) for index in range(int(steps) + 1)] if steps >= 0 else []
    if not numbers or not all(0 < ratio < 1 for ratio in numbers):
        raise ConfigurationError(f"{flag} must be between 0 and 1, at least one of them; got {text!r}.")
    return numbers


def parse_methods(texts: Sequence[str], config: VBPConfig) -> list[VBPConfig]:
    """Read methods in the form ``criterion+compensation``, or names of presets.

    Args:
        texts: The methods; without any, the one of ``config``.
        config: Scope and limits of all methods.

    Raises:
        ConfigurationError: A text has another form, a name is unknown, or ``config`` has options of a method.
    """
    if not texts:
        return [config]
    if config.criterion_options or config.compensation_options:
        raise ConfigurationError(
            "--criterion-option and --compensation-option belong to one method; use --criterion and --compensation "
            "in place of --method."
        )
    methods = []
    for text in texts:
        preset: dict[str, Any] | None = PRESETS.get(text)
        criterion, plus, compensation = text.partition("+")
        if preset is not None:
            criterion, compensation = preset["criterion"], preset["compensation"]
        elif not plus:
            raise ConfigurationError(
                f"--method takes criterion+compensation, or one of {', '.join(PRESETS)}; got {text!r}."
            )
        methods.append(with_method(config, criterion, compensation))
    return methods


class Points(NamedTuple):
    """The points of a sweep: ratios, or levers with shares of MACs."""

    ratios: list[float] | None
    macs: list[float] | None = None
    levers: tuple[str, ...] | None = None


def parse_points(ratios: str | None, macs: str | None, levers: str | None) -> Points:
    """Read ``--ratios``, or ``--levers`` and ``--macs``.

    Raises:
        ConfigurationError: A text has another form, a share is outside (0, 1), or both kinds of points are given.
    """
    if macs is None and levers is None:
        return Points(parse_ratios(DEFAULT_RATIOS if ratios is None else ratios))
    if ratios is not None:
        raise ConfigurationError(
            "--ratios are shares of removed neurons, which merged tokens do not change. Give either --ratios, or "
            "--levers with --macs, shares of the MACs to keep."
        )
    shares = None if macs is None else parse_ratios(macs, "--macs")
    return Points(None, shares, None if levers is None else tuple(name.strip() for name in levers.split(",")))

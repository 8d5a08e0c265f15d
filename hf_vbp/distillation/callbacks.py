"""Callbacks of the trainer."""

from typing import Any

from transformers import TrainerCallback


class ShowEpoch(TrainerCallback):  # type: ignore[misc]
    """Pass the number of the epoch to the training images.

    Trainer passes it to its sampler, and accelerate to the data set only where the sampler does not accept it; images
    that are augmented by the number of the epoch need it in both cases.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Pass the number of the epoch on."""
        set_epoch = getattr(self._trainer.train_dataset, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(int(state.epoch or 0))

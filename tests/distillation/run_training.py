"""A training run in a separate process: ``python -m tests.distillation.run_training FOLDER JSON``.

The JSON holds settings for :func:`tests.distillation.helpers.arguments` and, under ``kill_at``, the step at which the
process kills itself with a signal that cannot be caught; under ``kill_while_saving``, the step whose checkpoint is cut
short; under ``fsdp_on_cpu``, whether it may shard the model there; under ``evaluated``, how many images it evaluates.
The main process writes its log and its parameters, and the model as ``final`` where it was sharded.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tests.distillation.fsdp_on_cpu import allow_fsdp_on_cpu
from tests.distillation.helpers import Images, log_of, make_trainer, parameters_of


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, settings: dict[str, Any]) -> None:
    kill_at, kill_while_saving = settings.pop("kill_at", None), settings.pop("kill_while_saving", None)
    resume, kind = settings.pop("resume", False), settings.pop("kind", "vit")
    if settings.pop("fsdp_on_cpu", False):
        allow_fsdp_on_cpu()
    if evaluated := settings.pop("evaluated", 0):
        settings["eval_dataset"] = Images(evaluated, seed=7)
    trainer = make_trainer(folder, kind=kind, **settings)
    if kill_at is not None:
        trainer.add_callback(KillAt(kill_at))
    if kill_while_saving is not None:
        save = trainer._save_rng_state

        def die(output_dir: str) -> None:
            if trainer.state.global_step == kill_while_saving:
                os.kill(os.getpid(), signal.SIGKILL)
            save(output_dir)

        trainer._save_rng_state = die
    trainer.train(resume_from_checkpoint=resume)
    parameters = parameters_of(trainer.model)
    sharded = sum(type(parameter).__name__ == "DTensor" for parameter in trainer.model.parameters())
    if trainer.is_fsdp_enabled:
        # Every process takes part in gathering the shards and in the following steps.
        parameters = trainer.accelerator.get_state_dict(trainer.model)
        trainer.save_model(str(folder / "final"))
    if trainer.is_world_process_zero():
        torch.save(parameters, folder / "parameters.pt")
        log: dict[str, Any] = {key: log_of(trainer, key) for key in ("loss", "hard_loss", "soft_loss", "eval_loss")}
        log |= {"processes": trainer.args.world_size, "sharded": sharded}
        (folder / "log.json").write_text(json.dumps(log), encoding="utf-8")
    trainer.accelerator.end_training()
    # Everything is written; gloo's threads at times abort an interpreter that is being torn down.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))

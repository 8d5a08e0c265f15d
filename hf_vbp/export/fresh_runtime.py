"""Opens exported files with their runtime, runs them on given inputs, and measures how long a pass takes.

Run as a script in a separate process, with the path of a job file; see :mod:`hf_vbp.export.parity`. It imports nothing
of hf_vbp, and PyTorch only for the formats of PyTorch.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, "np.ndarray[Any, Any]"]
Run = Callable[[Arrays], Arrays]
# Exit code where the folder of the job cannot be written to.
CANNOT_WRITE = 28
_WARMUP_PASSES, _FEWEST, _MOST = 3, 10, 200


def main(job_file: str) -> None:
    """Do the job; write the outputs of each batch size and ``result.json`` to the folder of the job file."""
    folder = Path(job_file).parent
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    inputs = {name: np.load(folder / file, mmap_mode="r") for name, file in job["inputs"].items()}
    version, open_file = _RUNTIMES[job["runtime"]]()
    result: dict[str, Any] = {"version": version, "times": []}
    run = open_file(job["file"], job["threads"][-1], job["outputs"], job["dtype"])
    for batch, images in job["batches"]:
        parts = [run(part) for part in _parts(inputs, batch, images)]
        for index, name in enumerate(job["outputs"]):
            _save(folder / f"output-{batch}-{index}.npy", np.concatenate([part[name] for part in parts]))
    del run
    one = next(_parts(inputs, 1, 1))
    files = [*job["others"], job["file"]]
    for threads in job["threads"] if job["seconds"] else []:
        runs = [open_file(file, threads, job["outputs"], job["dtype"]) for file in files]
        result["times"].append({"threads": threads, "seconds": _measure(runs, one, job["seconds"])})
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _save(path: Path, value: "np.ndarray[Any, Any]") -> None:
    try:
        np.save(path, value)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(CANNOT_WRITE)


def _parts(inputs: Arrays, batch: int, images: int) -> Iterator[Arrays]:
    for start in range(0, images, batch):
        yield {name: np.array(value[start : min(start + batch, images)]) for name, value in inputs.items()}


def _measure(runs: list[Run], inputs: Arrays, seconds: float) -> list[list[float]]:
    """Return the seconds of each pass, of several files in turns."""
    for run in runs:
        for _ in range(_WARMUP_PASSES):
            run(inputs)
    times: list[list[float]] = [[] for _ in runs]
    started = time.perf_counter()
    while len(times[0]) < _FEWEST or (len(times[0]) < _MOST and time.perf_counter() - started < seconds):
        first = len(times[0]) % len(runs)
        for index in (*range(first, len(runs)), *range(first)):
            before = time.perf_counter()
            runs[index](inputs)
            times[index].append(time.perf_counter() - before)
    return times


def _onnxruntime() -> tuple[str, Callable[..., Run]]:
    import onnxruntime

    def open_file(file: str, threads: int, outputs: list[str], dtype: str) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # After a run the threads of a session wait in a loop for the next one, and would take the processor from the
        # other files that are measured in turns: with two threads this doubled their times.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))

    return f"onnxruntime {onnxruntime.__version__}", open_file


def _openvino() -> tuple[str, Callable[..., Run]]:
    # Otherwise OpenVINO sends usage data, by a process that is forked from this one.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    def open_file(file: str, threads: int, outputs: list[str], dtype: str) -> Run:
        core = openvino.Core()
        # Otherwise the runtime may compute in bfloat16 where the processor can.
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
        model = core.compile_model(core.read_model(file), "CPU", settings)
        ports = [(port.get_any_name(), port) for port in model.outputs]

        def run(inputs: Arrays) -> Arrays:
            found = model(inputs)
            return {name: np.array(found[port]) for name, port in ports}

        return run

    return f"openvino {openvino.__version__.partition('-')[0]}", open_file


def _torch() -> tuple[str, Callable[..., Run]]:
    import torch

    def open_file(file: str, threads: int, outputs: list[str], dtype: str) -> Run:
        torch.set_num_threads(threads)
        module: Any = torch.export.load(file).module()

        def run(inputs: Arrays) -> Arrays:
            torch.set_num_threads(threads)
            given = {name: torch.from_numpy(value) for name, value in inputs.items()}
            with torch.no_grad():
                found = module(**{name: _as(value, dtype) for name, value in given.items()})
            return {name: value.float().numpy() for name, value in found.items()}

        def _as(value: Any, dtype: str) -> Any:
            return value.to(getattr(torch, dtype)) if value.is_floating_point() else value

        return run

    return f"torch {torch.__version__.partition('+')[0]}", open_file


def _executorch() -> tuple[str, Callable[..., Run]]:
    import importlib.metadata

    import torch
    from executorch.runtime import Runtime

    def open_file(file: str, threads: int, outputs: list[str], dtype: str) -> Run:
        method: Any = Runtime.get().load_program(Path(file)).load_method("forward")

        def run(inputs: Arrays) -> Arrays:
            found = method.execute([torch.from_numpy(value) for value in inputs.values()])
            return dict(zip(outputs, [value.numpy() for value in found], strict=False))

        return run

    return f"executorch {importlib.metadata.version('executorch')}", open_file


_RUNTIMES: dict[str, Callable[[], tuple[str, Callable[..., Run]]]] = {
    "onnx": _onnxruntime,
    "openvino": _openvino,
    "torch-export": _torch,
    "executorch": _executorch,
}

if __name__ == "__main__":
    main(sys.argv[1])

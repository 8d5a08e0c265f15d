"""Export a model for other runtimes: ONNX, OpenVINO, ``torch.export``, ExecuTorch; quantization; parity.

The conversion is that of ``transformers.exporters``. This package adds the layout of the files, the choice of a
quantization, and the comparison with the PyTorch model in a fresh process.
"""

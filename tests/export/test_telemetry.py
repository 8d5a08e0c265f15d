"""OpenVINO sends usage data when it is imported; an export does not."""

import subprocess
import sys

from .conftest import require_openvino

CODE = """
import sys
from hf_vbp.export.quiet import import_openvino

openvino = import_openvino()
import openvino.tools.ovc
assert type(openvino.tools.ovc.telemetry).__module__ == "openvino.tools.ovc.telemetry_stub"
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
"""


def test_openvino_is_imported_without_its_telemetry() -> None:
    require_openvino()
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr

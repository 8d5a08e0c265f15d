"""Push a checkpoint to the Hub in one commit, and audit a published one."""

from hf_vbp.hub.audit import AuditReport, Check, audit
from hf_vbp.hub.files import PushFile
from hf_vbp.hub.push import push_to_hub
from hf_vbp.hub.push_plan import PushPlan, PushResult
from hf_vbp.hub.push_space import push_space
from hf_vbp.hub.retries import Retries

__all__ = [
    "AuditReport",
    "Check",
    "PushFile",
    "PushPlan",
    "PushResult",
    "Retries",
    "audit",
    "push_space",
    "push_to_hub",
]

"""The page: inspect a model, gather statistics, read plans from them, prune, verify, publish. Needs ``hf-vbp[ui]``."""

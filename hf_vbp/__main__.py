"""``python -m hf_vbp`` is ``hf-vbp``, so that ``accelerate launch -m hf_vbp stats ...`` works."""

from hf_vbp.cli.app import main

main()

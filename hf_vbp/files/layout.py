"""The names of all files of a checkpoint, each spelled here once."""

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
IMAGE_PROCESSOR = "preprocessor_config.json"
# Either of them describes the image processor.
PROCESSORS = (IMAGE_PROCESSOR, "processor_config.json")
# The file that `auto_map` of the config names, and its name there.
MODELING_MODULE = "modeling_hf_vbp"
MODELING_FILE = f"{MODELING_MODULE}.py"
# The list of known versions of the modeling file, which is part of the package and not of a checkpoint.
MODELING_HASHES = "modeling_hashes.txt"

PLAN = "plan.json"
RESULTS = "vbp_results.json"
RECIPE = "recipe.yaml"
CARD = "README.md"
MANIFEST = "vbp_manifest.json"
UNVERIFIED = "unverified.json"

# Files of other tools that can make loading a checkpoint run code.
ADAPTER = "adapter_config.json"
CUSTOM_GENERATE = "custom_generate/generate.py"

"""Zero-shot accuracy of dual encoders against the logits of a whole forward pass with all prompts."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import hf_vbp
from hf_vbp.errors import LabelError
from hf_vbp.evaluation import Measures, ZeroShot, evaluate_models
from hf_vbp.results.record import schema
from tests.evaluation.prompts import NAMES, word_tokenizer
from tests.families.running import BY_NAME, model_of


@pytest.fixture
def tokenizer() -> Any:
    return word_tokenizer()


def labelled(family: Any, sizes: tuple[int, ...] = (5, 4)) -> list[dict[str, Any]]:
    batches, start = [], 0
    for size in sizes:
        batch = {
            key: value
            for key, value in family.batch(size, 0, start).items()
            if key not in ("input_ids", "attention_mask")
        }
        batches.append({**batch, "labels": torch.arange(start, start + size) % len(NAMES)})
        start += size
    return batches


@pytest.mark.parametrize("name", ["CLIPModel", "MetaClip2Model", "SiglipModel", "Siglip2Model"])
def test_the_class_of_the_nearest_prompt(name: str, tokenizer: Any) -> None:
    family, model = BY_NAME[name], model_of(name)
    batches = labelled(family)
    measures = Measures(zero_shot=ZeroShot(NAMES, tokenizer))
    found = evaluate_models({"model": model}, batches, reference=None, measures=measures)["model"].to_dict()
    length = model.config.text_config.max_position_embeddings
    padding: dict[str, Any] = (
        {"padding": "max_length", "max_length": length} if name.startswith("Siglip") else {"padding": True}
    )
    prompts = tokenizer([f"a photo of a {each}." for each in NAMES], return_tensors="pt", truncation=True, **padding)
    hits = []
    for batch in batches:
        images = {key: value for key, value in batch.items() if key != "labels"}
        texts = {key: prompts[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            logits = model(**images, **texts).logits_per_image
        hits += (logits.argmax(1) == batch["labels"]).tolist()
    assert found["zero_shot"]["top1"] == pytest.approx(sum(hits) / 9)
    assert (found["zero_shot"]["classes"], found["zero_shot"]["templates"]) == (4, ["a photo of a {}."])
    assert "outputs" not in found


def test_several_templates_are_averaged(tokenizer: Any) -> None:
    model = model_of("CLIPModel")
    templates = ["a photo of a {}.", "the {}"]
    found = ZeroShot(NAMES, tokenizer, template=templates).class_embeddings(model).double()
    for index, name in enumerate(NAMES):
        total = torch.zeros(found.shape[1], dtype=torch.float64)
        for template in templates:
            with torch.no_grad():
                output = model.get_text_features(
                    **tokenizer([template.format(name)], return_tensors="pt", return_token_type_ids=False)
                )
            one = output.pooler_output[0].double()
            total += one / one.norm()
        assert torch.allclose(found[index], total / total.norm(), atol=1e-6)


def test_before_and_after_pruning_of_a_dual_encoder(tokenizer: Any, tmp_path: Path) -> None:
    family, model = BY_NAME["CLIPModel"], model_of("CLIPModel")
    calibration = [family.batch(4), family.batch(4, 0, 4)]
    measures = Measures(zero_shot=ZeroShot(NAMES, tokenizer))
    config = hf_vbp.VBPConfig(ratio=0.5)
    result = hf_vbp.prune(model, calibration, config, eval_data=labelled(family), measures=measures)
    jsonschema.validate(result.results, schema())
    found = result.results["evaluation"]
    change = found["pruned"]["zero_shot"]["top1"] - found["dense"]["zero_shot"]["top1"]
    assert found["pruned"]["zero_shot"]["change"] == pytest.approx(change)
    assert found["pruned"]["outputs"]["image_embeds"]["cosine_distance"]["mean"] > 0
    assert result.results["observed"]["relative_output_error"] > 0


def test_labels_beyond_the_class_names_are_refused(tokenizer: Any) -> None:
    measures = Measures(zero_shot=ZeroShot(NAMES[:2], tokenizer))
    with pytest.raises(LabelError, match="label 3 is beyond the 2 class names of zero_shot"):
        evaluate_models(
            {"m": model_of("CLIPModel")}, labelled(BY_NAME["CLIPModel"]), reference=None, measures=measures
        )

"""Settings of a model's folder: each is in force as the code believes it is, or refused with a way out that works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from chexreason.model.features import cache_films
from chexreason.model.generate import Sampling, sample
from chexreason.model.load import load_policy, resolve_source
from tests.support.families import FAMILIES, source_of

pytestmark = pytest.mark.slow
SMALLER = {"height": 64, "width": 64}  # of Gemma 3, whose images are all of one size
AREA = {"shortest_edge": 4096, "longest_edge": 4096}  # of the others
CROPS = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 32, "pan_and_scan_min_ratio_to_activate": 1.1}
# Of the image processor: in force for both ways in, or without an effect on either.
TAKEN = (
    {"do_rescale": False},
    {"do_normalize": False},
    {"do_convert_rgb": False},
    {"resample": 0},
    {"image_mean": [0, 0, 0]},
    {"rescale_factor": 0.5},
    {"do_center_crop": True, "crop_size": {"height": 64, "width": 64}},
    {"do_pad": True, "pad_size": {"height": 256, "width": 256}},
    {"pan_and_scan_max_num_crops": 2},
)
REFUSED = (CROPS, {"do_image_splitting": True}, {"do_resize": False})
REFUSED_BY_GEMMA, REFUSED_BY_OTHERS = (
    ({"size": SMALLER}, {"image_seq_length": 9}),
    ({"patch_size": 8}, {"merge_size": 1}),
)


def changed(name: str, folder: Path, file: str, **settings) -> str:
    """A copy of a packaged model whose ``file`` says ``settings``, of its image processor where it has one."""
    shutil.copytree(resolve_source(source_of(name)), folder)
    content = json.loads((folder / file).read_text())
    part = content if "image_seq_length" in settings else content.get("image_processor", content)
    part.update(settings)
    (folder / file).write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_encoded_is_what_resize_the_caches_and_the_plan_take_it_to_be(name, images, tmp_path):
    film, plain = images[2], load_policy(source_of(name), dtype="float32")
    before = plain.encode([film], ["Hi"])
    others = ({"size": AREA}, {"min_pixels": 4096, "max_pixels": 4096}) if name != "tiny_gemma3" else ()
    for i, settings in enumerate((*TAKEN, *others)):
        source = changed(name, tmp_path / str(i), "processor_config.json", **settings)
        policy = cache_films(load_policy(source, dtype="float32"), None, str(tmp_path / "features"))
        after = policy.encode([film], ["Hi"])
        assert torch.equal(policy.encode([policy.resize(film)], ["Hi"], resized=True).pixel_values, after.pixel_values)
        if not torch.equal(before.pixel_values, after.pixel_values):
            assert policy.encoder.resize_key != plain.encoder.resize_key, settings  # no cache gives the old ones
        (features,) = policy.image_features(after)
        assert len(features) == int((after.input_ids == policy.base.config.image_token_id).sum())
        size = dict(policy.processor.image_processor.size)
        most = policy.family.image_tokens(policy.base.config, size.get("longest_edge"))
        assert len(features) == most if name == "tiny_gemma3" else len(features) <= most


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_not_in_force_or_does_not_fit_is_refused_and_the_way_out_works(name, tmp_path):
    for i, settings in enumerate((*REFUSED, *(REFUSED_BY_GEMMA if name == "tiny_gemma3" else REFUSED_BY_OTHERS))):
        source = changed(name, tmp_path / str(i), "processor_config.json", **settings)
        key = next(iter(settings))
        with pytest.raises(
            ValueError, match=rf"model\.source=.*/{i}: its processor says {key}=.*with {key}=(.*)\. Set"
        ):
            load_policy(source, dtype="float32")
        plain = json.loads((Path(resolve_source(source_of(name))) / "processor_config.json").read_text())
        told = {"do_pan_and_scan": False, "do_image_splitting": False} | plain | plain["image_processor"]
        file = tmp_path / str(i) / "processor_config.json"
        content = json.loads(file.read_text())
        (content if key == "image_seq_length" else content["image_processor"])[key] = told[key]
        file.write_text(json.dumps(content))
        load_policy(source, dtype="float32")


@pytest.mark.parametrize("name", FAMILIES)
def test_of_the_generation_config_the_stop_ids_alone_are_in_force(name, images, tmp_path):
    own = {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.2, "repetition_penalty": 9.0}
    own |= {"max_new_tokens": 2, "min_new_tokens": 2, "no_repeat_ngram_size": 1}
    found = []
    for i, settings in enumerate(({}, own)):
        source = changed(name, tmp_path / str(i), "generation_config.json", **settings)
        policy = load_policy(source, dtype="float32")
        prompts = policy.with_features(policy.encode(images, ["Hi"] * 3))
        found.append(sample(policy, prompts, Sampling(20, 1.3), keys=[(k,) for k in range(3)]))
    assert torch.equal(found[0].ids, found[1].ids)
    first = int(found[0].ids[0, 3])
    declared = [*policy.stop_ids, first]
    policy = load_policy(
        changed(name, tmp_path / "2", "generation_config.json", eos_token_id=declared), dtype="float32"
    )
    stopped = sample(policy, prompts, Sampling(20, 1.3), keys=[(k,) for k in range(3)])
    assert first in policy.stop_ids
    assert bool(stopped.finished[0])
    assert int(stopped.mask[0].sum()) == found[0].ids[0].tolist().index(first) + 1


def test_a_folder_padded_on_the_right_is_encoded_on_the_left(images, tmp_path):
    for name in FAMILIES:
        source = changed(name, tmp_path / name, "tokenizer_config.json", padding_side="right", model_max_length=20)
        prompts = load_policy(source, dtype="float32").encode([Image.new("RGB", (128, 128))] * 2, ["Hi", "Hi " * 30])
        assert prompts.attention_mask[:, -1].tolist() == [1, 1]
        assert int(prompts.attention_mask[1].sum()) > 40

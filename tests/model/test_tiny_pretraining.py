"""The parts of tiny pre-training that can go wrong without an error: labels, sides, weights, patches, resuming."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import parse
from tools.tiny_models import dialogues, shapes
from tools.tiny_models.configs import MODELS, build_processor
from tools.tiny_models.encode import DialogueEncoder
from tools.tiny_models.lessons import (
    N_LABELS,
    ShapeLessons,
    _chest_turns,
    _phantom_target,
    brightness,
    token_marks,
)
from tools.tiny_models.marks import GRID, sign_marks
from tools.tiny_models.package import tiny_path
from tools.tiny_models.phantom_stream import phantom
from tools.tiny_models.phantoms import SEED
from tools.tiny_models.pretrain import Pretraining
from tools.tiny_models.radiographs import augment, macro_auroc, masked_bce, normalise
from tools.tiny_models.student import patchify
from tools.tiny_models.tokenizer import random_study


def test_macro_auroc_is_that_of_scikit_learn_and_leaves_unlabelled_classes_out():
    torch.manual_seed(0)
    logits, target = torch.randn(50, 14), (torch.rand(50, 14) < 0.5).float()
    mask = torch.ones(50, 14)
    mask[:, 3] = 0
    areas = macro_auroc(logits, target, mask)
    assert CHEXPERT14.labels[3] not in areas
    assert len(areas) == 14
    assert areas[CHEXPERT14.labels[4]] == pytest.approx(roc_auc_score(target[:, 4], logits[:, 4]))


def test_masked_entries_do_not_touch_the_loss():
    logits, target, mask = torch.randn(4, 3), torch.ones(4, 3), torch.ones(4, 3)
    mask[:, 1] = 0
    changed = logits.clone()
    changed[:, 1] += 100
    assert masked_bce(logits, target, mask) == masked_bce(changed, target, mask)
    assert masked_bce(logits, target, torch.zeros(4, 3)) == 0


def test_augmentation_is_seeded_pure_and_keeps_sides():
    pixels = torch.zeros(8, 128, 128, dtype=torch.uint8)
    pixels[:, :, 96:] = 255
    before = pixels.clone()
    first, again = (augment(pixels, torch.Generator().manual_seed(1))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(pixels, before)
    assert all(right > left for left, right in map(brightness, first))


def test_answer_form_tasks_hold_no_label_list_of_the_fine_tuning_arms():
    rng = random.Random(0)
    names = {label.casefold() for label in CHEXPERT14} - {"consolidation", "edema", "pneumonia", "pneumothorax"}
    for index in range(300):
        study = random_study(str(index), rng)
        asked, reply = dialogues.task(study, (100.0, 120.0), rng)
        assert "<solution>" in asked
        grammar = "think_solution" if "<think>" in reply else "solution_only"
        parsed = parse(reply, CHEXPERT14, grammar)
        assert parsed.valid, reply
        assert not names & {label.casefold() for label in parsed.labels}


def test_repeated_words_are_the_words_of_the_request_and_cover_every_label():
    rng = random.Random(0)
    seen: set[str] = set()
    for _ in range(300):
        asked, answer = dialogues.repeat(rng)
        assert asked == f"Repeat: {answer}"
        seen |= {label for label in CHEXPERT14 if label in answer}
    assert seen == set(CHEXPERT14)


def test_label_names_are_answers_to_repeat_requests_alone():
    """What ties an image to a label list is left to fine-tuning; repeating draws labels without looking."""
    lessons_rng = random.Random(1)
    study = random_study("x", lessons_rng)
    pixels = torch.zeros(1, 128, 128)
    for kind in (0.1, 0.5, 0.9):
        for _ in range(40):
            *looking, (asked, _) = _chest_turns(study, pixels, kind, lessons_rng)
            assert asked.startswith("Repeat: ")
            assert not any(question.startswith("Repeat: ") for question, _ in looking)
            listed = [answer for _, answer in looking if "<solution>" in answer]
            assert not any("Cardiomegaly" in answer.split("<solution>")[1] for answer in listed)


def test_the_halves_task_answers_from_the_pixels():
    rng = random.Random(0)
    thought, _, _, answer = dialogues._halves(random_study("x", rng), (60.0, 140.0), rng)
    assert answer == ["right half"]
    assert "right half" in thought


def test_weights_cover_the_answers_and_their_stop_token_alone():
    from transformers import AutoProcessor

    for name in MODELS:
        tokenizer = AutoProcessor.from_pretrained(tiny_path(name)).tokenizer
        encode = DialogueEncoder(name, tokenizer)
        encoded = encode([[("Is there a ring?", "Yes."), ("Where is it?", "At the top left.")], [("Hm?", "No.")]])
        scored = tokenizer.decode(encoded.input_ids[0][encoded.weights[0] > 0])
        stop = encode.frame.answer_end
        assert scored == f"Yes.{stop}At the top left.{stop}"
        assert (encoded.weights[encoded.attention_mask == 0] == 0).all()
        assert encoded.type_ids.sum(1).tolist() == [16, 16]


def test_patches_are_those_of_the_real_processor():
    from transformers import AutoProcessor

    tokenizer = AutoProcessor.from_pretrained(tiny_path("tiny_qwen2_5_vl")).tokenizer
    processor = build_processor("tiny_qwen2_5_vl", tokenizer)
    grey = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    real = processor.image_processor(Image.fromarray(grey).convert("RGB"), return_tensors="pt")["pixel_values"]
    ours = patchify(normalise(torch.from_numpy(grey)[None]))
    torch.testing.assert_close(ours, real, atol=1e-5, rtol=0)


def test_marks_move_with_their_image():
    """A mark in the top right corner of the map becomes the fourth image token, and follows a shift to the left."""
    mark = torch.zeros(GRID, GRID, dtype=torch.uint8)
    mark[:4, -4:] = 255
    still = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[1, 0, 0.5], [0, 1, 0]]])  # shifts are in half widths
    marks = token_marks([[(2, mark)], [(2, mark)]], still)
    assert marks[0, :, 2].nonzero().flatten().tolist() == [3]
    assert marks[1, :, 2].nonzero().flatten().tolist() == [2]
    assert marks[:, :, [0, 1, 3]].sum() == 0


@pytest.mark.slow
def test_signs_are_marked_on_their_side():
    sided = {}
    for index in range(24):
        for sign in phantom(SEED, index)[0].findings:
            if sign.label in {"Pneumothorax", "Consolidation", "Lung Lesion"} and sign.side != "both":
                mark = sign_marks(index)[sign.label]
                left = mark[:, GRID // 2 :].sum() > mark[:, : GRID // 2].sum()  # the patient's left: image right
                sided[index, sign.label] = bool(left) == (sign.side == "left")
    assert len(sided) >= 4
    assert all(sided.values()), sided


def test_phantom_targets_carry_the_patient_side():
    rng = random.Random(3)
    for index in range(50):
        study = random_study(str(index), rng)
        target = _phantom_target(study)
        assert target[:N_LABELS].tolist() == list(study.target)
        for sign in study.signs:
            column = CHEXPERT14.index(sign.label)
            assert target[N_LABELS + column] == float(sign.side in {"left", "both"})
            assert target[2 * N_LABELS + column] == float(sign.side in {"right", "both"})


def test_shapes_are_drawn_where_they_are_said_to_be():
    bright = shapes.Shape("circle", row=0, column=2, bright=True, large=True)
    image = shapes.draw([bright], seed=0).astype(float)
    assert image[10:35, 95:120].mean() > image.mean() + 30
    assert "a large bright circle at the top right" in shapes.describe([bright])
    assert shapes.targets([bright]).sum() == 3
    assert shapes.token_marks([bright])[3].tolist() == [1.0] + [0.0] * 5
    assert shapes.question([bright], random.Random(1))[1].endswith(".")


@pytest.mark.slow
def test_pretraining_continues_where_it_stopped(tmp_path):
    run = Pretraining("tiny_gemma3", ShapeLessons(), tmp_path, minutes=1.0, look_share=0.5, seed=0)
    run._learn()
    run.elapsed = 40.0
    run._save()
    again = Pretraining("tiny_gemma3", ShapeLessons(), tmp_path, minutes=1.0, look_share=0.5, seed=0)
    assert (again.step, again.talking) == (1, True)
    for old, new in zip(run.student.parameters(), again.student.parameters(), strict=True):
        assert torch.equal(old, new)

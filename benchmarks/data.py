"""Speed of the way from disk to batch.

    make bench-data

Prints a table and writes ``out/bench/data.json``. The real radiographs are used where ``CHEXREASON_DATA`` (default
``../shared/data``) has them; films of MIMIC-CXR-JPG's size are made here. Run it on a quiet machine.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import SizeDict

from benchmarks import measure
from benchmarks.measure import Row, seconds
from chexreason.data.batches import Collate
from chexreason.data.cache import ImageCache
from chexreason.data.check import ImageFacts, inspect_images
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.adapters import attach_lora
from chexreason.model.load import load_policy
from chexreason.model.logprobs import completion_scores
from chexreason.model.policy import Policy
from chexreason.training.datamodule import StudyData
from chexreason.types import Sample, Study
from tools.tiny_models.phantom_stream import stream

DATA = Path(os.environ.get("CHEXREASON_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))
ANSWER = "<think>The heart is enlarged and both costophrenic angles are blunt.</think><solution>Edema</solution>"
N_LARGE, N_NIH, N_STEPS = 32, 256, 12


def row(case: str, metric: str, ours: float, peer: float | None = None, bar: float | None = None) -> Row:
    """One line of the table; ``ratio`` is ours over peer."""
    return measure.row(case, metric, ours, peer, None if peer is None else ours / peer, bar)


def studies(paths: list[Path]) -> list[Study]:
    """Unlabelled studies over ``paths``, with the hashes a manifest would hold."""
    blank, facts = (0,) * len(CHEXPERT14), inspect_images(paths)
    return [
        Study(str(fact.path), "p", "bench", fact.path, blank, (True,) * len(CHEXPERT14), image_sha256=fact.sha256)
        for fact in facts
    ]


def large_films(folder: Path) -> list[Path]:
    """JPEGs of 2500 x 2048 pixels, grainy enough to weigh what MIMIC-CXR-JPG's do (1.5 to 2 MB)."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.jpg" for i in range(N_LARGE)]
    for path, (pixels, _) in zip(paths, stream(0), strict=False):
        smooth = np.asarray(Image.fromarray(pixels).resize((2500, 2048), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = rng.standard_normal(smooth.shape, dtype=np.float32) * 4
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def one_fact(path: Path) -> ImageFacts:
    """The pass over a single image: what a process of the peer does."""
    return inspect_images([path], workers=1)[0]


def check_rows(name: str, paths: list[Path]) -> Iterator[Row]:
    """The image pass in threads, against as many processes."""
    for workers in (1, 2):
        ours = len(paths) / seconds(partial(inspect_images, paths, None, workers))
        peer = None
        if workers > 1:
            with ProcessPoolExecutor(workers) as pool:
                list(pool.map(one_fact, paths[:2]))  # start them
                peer = len(paths) / seconds(lambda pool=pool: list(pool.map(one_fact, paths, chunksize=4)))
        yield row(f"image pass, {name}, {workers} threads (peer: processes)", "images/s", ours, peer)


def loader(policy: Policy, found: list[Study], workers: int, cache: ImageCache | None, batch_size: int) -> StudyData:
    """The data module as training builds it."""
    collate = policy.collate()
    if cache is not None:
        collate = Collate(partial(policy.encode, resized=True), policy.encode_answers, cache.load)
    samples = [Sample(study, "Which findings are present?", ANSWER) for study in found]
    sizes = {"batch_size": batch_size, "eval_batch_size": 1, "num_workers": workers}
    return StudyData(collate, samples, {}, **sizes)


def loader_rows(name: str, policy: Policy, found: list[Study], folder: Path) -> Iterator[Row]:
    """Images a second out of the loader, from the filled cache against from the files."""
    cache = ImageCache(folder, policy.resize, policy.encoder.resize_key)
    for study in found:
        cache.load(study)
    for workers in (0, 1, 2):
        rates = []
        for chosen in (cache, None):
            data = loader(policy, found, workers, chosen, 8).train_dataloader()
            rates.append(len(found) / seconds(lambda data=data: sum(len(batch) for batch in data)))
        yield row(f"loader, {name}, {workers} workers: cache (peer: no cache)", "images/s", *rates)
    entry = next(path for path in folder.rglob("*") if path.is_file())
    yield row(f"cache, {name}: one image", "kB", entry.stat().st_size / 1e3)


def waiting(policy: Policy, data: StudyData) -> float:
    """Share of the time of SFT steps that goes by before the batch is there."""
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-5)
    waited, start = 0.0, time.perf_counter()
    batches = iter(data.train_dataloader())
    for _ in range(N_STEPS):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        prompts = policy.with_features(batch.prompts)
        scores = completion_scores(policy, prompts, batch.answer_ids, batch.answer_mask, shared=False)
        (-scores.logp.sum() / batch.update_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    return waited / (time.perf_counter() - start)


def step_rows(name: str, policy: Policy, found: list[Study], folder: Path) -> Iterator[Row]:
    """Share of a training step spent waiting, with the cache against without."""
    cache = ImageCache(folder, policy.resize, policy.encoder.resize_key)
    found = [found[i % len(found)] for i in range(8 * (N_STEPS + 1))]
    for study in found:
        cache.load(study)
    for workers in (0, 1):
        shares = [waiting(policy, loader(policy, found, workers, chosen, 8)) for chosen in (cache, None)]
        yield row(f"SFT step, {name}, {workers} workers: waiting, cache (peer: no cache)", "share", *shares)


def rows(folder: Path) -> Iterator[Row]:
    """All lines of the table."""
    policy = load_policy("tiny:tiny_gemma3", dtype="float32")
    large = large_films(folder)
    found = studies(large)
    yield from check_rows("2500x2048 JPEG", large)
    yield from step_rows("tiny_gemma3, 2500x2048 JPEG", _trainable(), found, folder / "step_large")
    if (DATA / "nih" / "labels.csv").is_file():
        nih = sorted((DATA / "nih" / "images").glob("*.jpg"))[:N_NIH]
        yield from check_rows("nih (320 px)", nih)
        yield from loader_rows("nih (320 px) to 128 px", policy, studies(nih), folder / "nih")
        yield from step_rows("tiny_gemma3, nih (320 px)", _trainable(), studies(nih), folder / "step_nih")
    policy.processor.image_processor.size = SizeDict(height=896, width=896)  # MedGemma's
    yield from loader_rows("2500x2048 JPEG to 896 px", policy, found, folder / "large")


def _trainable() -> Policy:
    policy = load_policy("tiny:tiny_gemma3", dtype="float32")
    attach_lora(policy)
    return policy


def main() -> None:
    """Measure, print, write."""
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measure.report("data", rows(Path(folder)))


if __name__ == "__main__":
    main()

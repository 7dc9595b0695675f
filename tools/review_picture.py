"""The picture of the review page, of phantoms: ``python -m tools.review_picture docs/review.png``."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from chexreason.confdir import confdir
from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import Grammar
from chexreason.prompts import load_prompt
from chexreason.review.decision import REASONS, Decision
from chexreason.review.desk import Desk
from chexreason.review.journal import ReviewStore
from chexreason.review.server import ReviewServer
from chexreason.traces.template import TemplateTeacher
from chexreason.traces.trace import Trace
from tests.support.chromium import Chromium
from tools.tiny_models.phantom_stream import item, truth

DECIDED = 37
READER = "Dr Anna Keller"


def main(out: Path) -> None:
    """Serves a review of 100 phantoms, 37 of them decided, and takes its picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        traces = [_trace(folder, i) for i in range(100)]
        store = ReviewStore(folder / "review.sqlite")
        for i, trace in enumerate(traces[:DECIDED]):
            verdict = "reject" if i % 11 == 5 else "edit" if i % 6 == 2 else "accept"
            store.add(Decision(READER, *trace.key, trace.text_sha256, verdict, REASONS[0]))
        desk = Desk(traces, store, CHEXPERT14, {"reasoning_narrative": Grammar.THINK_SOLUTION})
        server = ReviewServer(desk, store.links([READER]), "127.0.0.1", 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = Chromium(folder / "profile")
        try:
            page = browser.page(server.address(READER), 1366, 768)
            page.ready()
            time.sleep(0.5)  # the picture is on the screen a frame later
            page.picture(folder / "page.png")
        finally:
            browser.close()
            server.shutdown()
        with Image.open(folder / "page.png") as picture:
            _few_colours(picture.convert("RGB")).save(out, optimize=True)


def _few_colours(picture: Image.Image) -> Image.Image:
    """A fifth of the bytes: the noise of the film in 32 greys, the colours of the page kept."""
    page = picture.crop((790, 0, *picture.size)).quantize(96, dither=Image.Dither.NONE).getpalette()[: 3 * 96]
    header = picture.crop((0, 0, 520, 66)).quantize(32, dither=Image.Dither.NONE).getpalette()[: 3 * 32]
    greys = [level for grey in range(0, 256, 8) for level in (grey,) * 3]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*page, *header, *greys])
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def _trace(folder: Path, index: int) -> Trace:
    """A phantom; only the one to be seen gets its film."""
    film, phantom = item(7, 71, size=448) if index == DECIDED else item(7, index, size=64)
    image = folder / f"{index}.png"
    Image.fromarray(film).save(image)
    study = truth(phantom, f"phantom-{index:03d}", image)
    prompt = load_prompt("reasoning_narrative", Path(confdir()) / "prompt")
    text = TemplateTeacher().write(study, prompt, CHEXPERT14)
    labels = CHEXPERT14.decode(study.target)
    return Trace(study.study_id, f"p{index}", "phantom", str(image), labels, prompt.name, text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

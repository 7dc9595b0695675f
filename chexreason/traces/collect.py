"""Asks a teacher about every study, several at a time, until each has an accepted trace or is set aside."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from PIL import Image

from chexreason.data.fingerprint import content_sha256
from chexreason.data.image import ImageError, grey_file
from chexreason.progress import Meter
from chexreason.traces.ask import Question, Reply, Then, Unanswered
from chexreason.traces.budget import Budget, estimate
from chexreason.traces.pace import Pace
from chexreason.traces.store import ANSWERED, GARBLED, Progress, TraceStore, Verdict
from chexreason.traces.task import Limits, Task
from chexreason.traces.verify import Fault
from chexreason.types import Study

_T = TypeVar("_T")
log = logging.getLogger(__name__)
_QUALITY = 92  # of the JPEG: lossless would be four times as large
_LOOK = 0.05  # seconds between looks at what others have left of the budget
_SMALLEST = 256  # pixels: an image that is too large even so is not what the endpoint complains of
_INTERRUPTED = "interrupted"
Show = Callable[[int, str], None]  # takes the number of accepted traces and a note, after each request


def collect_traces(
    task: Task, store: TraceStore, studies: Sequence[Study], limits: Limits, budget: Budget, show: Show
) -> str:
    """Asks about every study without an accepted trace that has attempts left; returns why it ended early, or "".

    The first Ctrl-C lets the requests in flight come home and raises KeyboardInterrupt then; the second drops them.
    A study without an answer, or whose image cannot be read, is left for the next run. Raises StoreError where an
    answer cannot be kept, after the requests in flight have been waited for.
    """
    return asyncio.run(_Run(task, store, limits, budget, show).all(studies))


def ask_all(task: Task, store: TraceStore, studies: Sequence[Study], limits: Limits, budget: Budget) -> str:
    """Log what the studies still to ask about will cost, and ask; returns why it stopped early, or an empty string."""
    waiting = to_ask(store, studies, limits)
    log.info("%d of %d studies need no answer any more", len(studies) - len(waiting), len(studies))
    if not waiting:
        return ""
    if task.teacher.endpoint:
        forecast = estimate(task, limits, waiting, store.typical())
        log.info("%s; budget %.2f USD, %.2f spent", forecast, budget.limit, budget.spent)
    with Meter(len(waiting), "answers") as meter:
        return collect_traces(task, store, waiting, limits, budget, meter)


def to_ask(store: TraceStore, studies: Sequence[Study], limits: Limits) -> list[Study]:
    """The studies without an accepted answer that have attempts left."""
    standing = store.progress()
    stands = [(study, standing[study.study_id]) for study in studies]
    return [study for study, stand in stands if not stand.accepted and stand.judged < limits.attempts]


class _Run:
    """The queue of one run and the state that its workers share."""

    def __init__(self, task: Task, store: TraceStore, limits: Limits, budget: Budget, show: Show) -> None:
        self._task, self._store, self._limits, self._budget, self._show = task, store, limits, budget, show
        self._start, self._n_answers, self._n_accepted = time.monotonic(), 0, 0
        self._queue: deque[tuple[Study, Progress]] = deque()
        self._why, self._in_a_row = "", 0
        self._errors: list[Exception] = []
        # One thread writes to SQLite: to wait for a lock must not delay the answers that arrive.
        self._writer = ThreadPoolExecutor(max_workers=1)

    async def all(self, studies: Sequence[Study]) -> str:
        limits = self._limits
        standing = self._store.progress()
        stands = [(study, standing[study.study_id]) for study in studies]
        self._queue.extend((study, stand) for study, stand in stands if not stand.accepted)
        self._pace = Pace(limits.per_minute, limits.pause, limits.longest_pause, self._task.seed)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            await asyncio.gather(*(self._work() for _ in range(min(limits.concurrency, len(self._queue)))))
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            self._writer.shutdown()
            await self._task.teacher.close()
        if self._errors:
            raise self._errors[0]
        if self._why == _INTERRUPTED:
            raise KeyboardInterrupt
        return self._why

    def _interrupt(self) -> None:
        log.warning("waiting for the answers in flight; Ctrl-C again drops them")
        self._halt(_INTERRUPTED)
        # The next Ctrl-C is Python's own: it cancels what is in flight.
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _halt(self, why: str) -> None:
        self._why = self._why or why
        self._pace.halt()

    async def _work(self) -> None:
        try:
            while self._queue and not self._pace.halted:
                await self._study(*self._queue.popleft())
        except Exception as error:  # the others' answers are paid for: they come home before it is raised
            self._errors.append(error)
            self._halt(str(error))

    async def _study(self, study: Study, stand: Progress) -> None:
        """Asks about one study until an answer passes or the attempts are used up."""
        attempt, faults = stand.judged, stand.faults
        while attempt < self._limits.attempts and not self._pace.halted:
            answer = await self._answer(study, attempt, faults)
            if answer is None:
                return
            number, reply, held = answer
            faults = tuple(self._task.judge(reply, study))
            usd = self._task.cost(reply, held)
            self._budget.settle(held, usd)
            await self._write(self._store.judged, [Verdict(number, reply, faults, usd)])
            self._n_answers += 1
            self._n_accepted += not faults
            self._report()
            if not faults:
                return
            attempt += 1

    async def _answer(self, study: Study, attempt: int, faults: Sequence[Fault]) -> tuple[int, Reply, float] | None:
        """The number of the answered request, its reply and the reserved USD; None without an answer."""
        side = self._task.side
        failed = Unanswered("no answer", Then.LEAVE)
        try:
            question = await self._question(study, attempt, faults, side)
        except ImageError as error:
            self._give_up(study, Unanswered("unreadable image", Then.LEAVE, detail=str(error)))
            return None
        for failures in range(self._limits.retries + 1):
            if not await self._pace.turn():
                return None
            outcome = await self._request(question)
            if not isinstance(outcome, Unanswered):
                self._in_a_row = 0
                return outcome
            failed = outcome
            if failed.then in (Then.STOP, Then.LEAVE):
                break
            if failed.then == Then.SMALLER:
                side //= 2
                if side < _SMALLEST or question.image is None:
                    break
                question = await self._question(study, attempt, faults, side)
            else:
                await self._wait(failed, failures)
        self._give_up(study, failed)
        return None

    async def _request(self, question: Question) -> tuple[int, Reply, float] | Unanswered:
        """Sends one request and stores the response before anything parses it."""
        task, store = self._task, self._store
        tariff = task.teacher.tariff
        most = tariff.usd(tariff.tokens_in(question.text, question.image is not None), tariff.max_tokens)
        while not self._budget.reserve(most):  # what is held for the others may turn out to cost less
            if self._budget.held < 1e-9 or self._pace.halted:
                return Unanswered("the budget is spent", Then.STOP)
            await self._pace.sleep(_LOOK)
        image = question.image
        hashes = content_sha256(question.text.encode()), content_sha256(image) if image is not None else None
        asked = question.study.study_id, question.attempt, task.teacher.endpoint, task.agreement, hashes, most
        number = await self._write(store.sent, *asked)
        start = time.monotonic()
        body = ""
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = await task.teacher.ask(question)
            await self._write(store.ended, number, ANSWERED, time.monotonic() - start, body, most)
            return number, task.read(body), most
        except TimeoutError:
            failed = Unanswered("timeout", Then.AGAIN, detail=f"after {self._limits.seconds:g} s", billed=True)
        except (ValueError, RecursionError) as error:  # the clients read the body of an error themselves
            failed = Unanswered(GARBLED, Then.AGAIN, detail=str(error), billed=True)
        except Unanswered as error:
            failed = error
        usd = most if failed.billed else 0.0
        self._budget.settle(most, usd)
        await self._write(store.ended, number, failed.reason, time.monotonic() - start, body or failed.detail, usd)
        self._report()
        return failed

    def _report(self) -> None:
        rate = self._n_answers / max((time.monotonic() - self._start) / 60, 1e-9)
        self._show(self._n_accepted, f"accepted, {rate:,.0f} answers/min, {self._budget.spent:.2f} USD")

    async def _question(self, study: Study, attempt: int, faults: Sequence[Fault], side: int) -> Question:
        task = self._task
        image = None
        if task.teacher.sees_image:
            shown = study.image, side, "JPEG", Image.Resampling.LANCZOS
            image = await asyncio.to_thread(grey_file, *shown, study.image_sha256, quality=_QUALITY)
        return Question(study, task.prompt, task.label_set, task.text(study, faults), image, attempt)

    async def _wait(self, outcome: Unanswered, failures: int) -> None:
        if outcome.wait is not None and outcome.wait > self._limits.longest_wait:
            self._halt(f"the endpoint asks to wait {outcome.wait:,.0f} s ({outcome})")
            return
        if outcome.wait is not None:
            self._pace.hold(outcome.wait)
        await self._pace.sleep((outcome.wait or 0.0) + self._pace.backoff(failures))

    def _give_up(self, study: Study, outcome: Unanswered) -> None:
        """Leaves a study for the next run; stops this run where every other study would fail too."""
        self._in_a_row += 1
        if outcome.then == Then.STOP:
            self._halt(str(outcome))
            return
        log.warning("%s is left for the next run: %s", study.study_id, outcome)
        if self._in_a_row >= self._limits.give_up:
            self._halt(f"{self._in_a_row} studies in a row got no answer, the last: {outcome}")

    async def _write(self, method: Callable[..., _T], *values: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, lambda: method(*values))

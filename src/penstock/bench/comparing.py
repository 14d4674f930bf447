"""A comparison: of two runs that were kept, or of two servers, run in turns (A B B A) so that time is fair to both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import msgspec

from penstock.bench.analysis.compare import Comparison, compare
from penstock.bench.analysis.measures import BY_NAME
from penstock.bench.analysis.result import Distribution, Verdict
from penstock.bench.analysis.summary import summarize
from penstock.bench.prepare import prepare
from penstock.bench.report.finished import EXIT_FAILED, EXIT_INTERRUPTED, Finished
from penstock.bench.report.folder import FolderError, make_folder, read_run, samples_of
from penstock.bench.report.page import kind_name, verdict_says
from penstock.bench.runner import measure
from penstock.bench.sample import Sample
from penstock.bench.settings import Settings, SettingsError
from penstock.bench.watch import Watch

# With fewer pairs, an interval over them says nothing; each is two runs.
PAIRS_MIN, PAIRS_MAX = 2, 50
EXIT_WORSE = 16
SIDES = ("A", "B")


class Compare(msgspec.Struct):
    """A whole comparison: the file `comparison.json`.

    Args:
        names: of A and B.
        verdicts: of the runs that are not valid, in sentences.
        curves_a, curves_b: measure -> distribution, for plots.
        interrupted: blocks are missing.
    """

    result: Comparison | None
    names: tuple[str, str]
    verdicts: list[str] = []
    curves_a: dict[str, Distribution] = {}
    curves_b: dict[str, Distribution] = {}
    interrupted: bool = False
    troubles: list[str] = []

    @property
    def worse(self) -> list[str]:
        """Measures of which B is worse beyond doubt."""
        if self.result is None:
            return []
        return [
            each.measure
            for each in self.result.measures
            if BY_NAME[each.measure].higher_is_better is not None
            and any(
                effect.shown and (effect.difference > 0) is not BY_NAME[each.measure].higher_is_better
                for effect in each.effects
            )
        ]

    def exit_code(self, *, fail_if_worse: bool = False) -> int:
        """Of the command that made it."""
        if self.troubles:
            return EXIT_FAILED
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_WORSE if fail_if_worse and self.worse else 0


def compare_folders(a: Path, b: Path, *, seed: int = 0) -> Compare:
    """How the run in folder `b` differs from the one in `a`.

    Raises:
        FolderError: one of them is no run, or kept no requests.
    """
    reports = [read_run(path) for path in (a, b)]
    for path, report in zip((a, b), reports, strict=True):
        if report.summary.all.counts.requests and next(samples_of(path), None) is None:
            raise FolderError(f"{path}: its requests were not kept", hint="run it with --rows jsonl")
    verdicts = [
        said
        for label, report in zip(SIDES, reports, strict=True)
        for said in _against(label, report.summary.verdict)
    ]
    first, second = reports
    if first.meta.load != second.meta.load:
        verdicts.append(f"The loads differ: {first.meta.load}, and {second.meta.load}.")
    if first.meta.workload != second.meta.workload:
        verdicts.append("The workloads differ, so what differs below may be theirs.")
    return Compare(
        compare([samples_of(a)], [samples_of(b)], labels=SIDES, seed=seed),
        (str(a), str(b)),
        verdicts,
        first.summary.all.measures,
        second.summary.all.measures,
    )


async def compare_servers(
    settings: tuple[Settings, Settings],
    pairs: int,
    watch: Watch,
    stop: asyncio.Event,
    *,
    interleave: bool,
    output: Path | None = None,
) -> Compare:
    """How the second server differs from the first, under the same load from the same seeds.

    Args:
        settings: of each block; that of the second one differs in its endpoint.
        pairs: of blocks, where they are interleaved: A B, B A, A B and so on.
        interleave: take turns; else A is run once, and then B.
        output: a new folder for all blocks.

    Raises:
        PenstockError: see `measure`.
    """
    if interleave and not PAIRS_MIN <= pairs <= PAIRS_MAX:
        raise SettingsError(f"pairs: {pairs} should be {PAIRS_MIN} to {PAIRS_MAX}")
    if output is not None:
        make_folder(output)
    known = [await prepare(each, watch) for each in settings]
    blocks: tuple[list[Finished], list[Finished]] = ([], [])
    interrupted = False
    for pair in range(pairs if interleave else 1):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            if stop.is_set():
                interrupted = True
                break
            block = _block(settings[side], pair, side, output)
            finished = await measure(block, watch, stop=stop, known=known[side], command="compare")
            interrupted = interrupted or finished.summary.interrupted
            blocks[side].append(finished)
    names = (settings[0].endpoint.url, settings[1].endpoint.url)
    return _compared(blocks, names, interrupted, settings[0].seed)


def _block(settings: Settings, pair: int, side: int, output: Path | None) -> Settings:
    """The settings of one block; both blocks of a pair send the same, no two pairs do."""
    letter = "AB"[side]
    return msgspec.structs.replace(
        settings,
        seed=settings.seed + pair,
        output=output / f"{pair + 1:02d}-{letter.lower()}" if output is not None else None,
        name=f"{letter}, block {pair + 1}: {settings.endpoint.url}",
    )


def _compared(
    blocks: tuple[Sequence[Finished], Sequence[Finished]],
    names: tuple[str, str],
    interrupted: bool,
    seed: int,
) -> Compare:
    whole = min(len(each) for each in blocks)
    if interrupted:  # a block that was cut short is no match for its twin
        whole = min(whole, *(sum(not one.summary.interrupted for one in each) for each in blocks))
    kept = [each[:whole] for each in blocks]
    verdicts = list(
        dict.fromkeys(
            said
            for label, each in zip(SIDES, blocks, strict=True)
            for one in each
            for said in _against(label, one.summary.verdict)
        )
    )
    result = None
    if whole:
        samples = [[one.samples() for one in each] for each in kept]
        result = compare(samples[0], samples[1], labels=SIDES, seed=seed)
    curves_a, curves_b = (_curves(one.samples() for one in each) for each in kept)
    troubles = [
        trouble for each in blocks for one in each for trouble in (*one.troubles, *one.report.meta.problems)
    ]
    return Compare(result, names, verdicts, curves_a, curves_b, interrupted, troubles)


def _curves(samples: Iterable[Iterable[Sample]]) -> dict[str, Distribution]:
    return summarize(chain.from_iterable(samples)).all.measures


def _against(label: str, verdict: Verdict | None) -> list[str]:
    if verdict is None or not verdict.exit_code:
        return []
    return [f"{label} is {kind_name(verdict.kind)}: {verdict_says(verdict)}"]

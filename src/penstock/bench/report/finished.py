"""A run that is over: its figures, its requests one by one, its pictures; what `bench.run` returns."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from penstock.bench.analysis.measures import MEASURES
from penstock.bench.analysis.result import Summary, Verdict
from penstock.bench.report.drawing import Charts, style
from penstock.bench.report.facts import Report
from penstock.bench.report.folder import samples_of
from penstock.bench.report.html_page import headline
from penstock.bench.report.page import pictures, report_style, verdict_box
from penstock.bench.report.row_files import MissingLibraryError
from penstock.bench.report.table import report_text
from penstock.bench.sample import Sample

EXIT_FAILED = 1
EXIT_NOT_GOOD_ENOUGH = 15
EXIT_INTERRUPTED = 130

_SCALARS = (
    *("index", "kind", "stage", "session", "turn", "process", "scheduled_s", "sent_s", "ended_s"),
    *("status", "cause", "detail", "cached_tokens", "reasoning_tokens", "request_id", "replica"),
)


class Scratch:
    """A folder that is removed with the last who knows of it, and at the end of the process."""

    def __init__(self) -> None:
        self.path = Path(mkdtemp(prefix="penstock-bench-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Finished:
    """One run.

    Args:
        folder: where its requests are.
        min_goodput: the share of good requests that was asked for; None is none.
        troubles: what could not be written.
        scratch: the folder, where nobody asked for one: it lives as long as this.
    """

    report: Report
    folder: Path
    min_goodput: float | None = None
    troubles: tuple[str, ...] = ()
    scratch: Scratch | None = field(default=None, repr=False)

    @property
    def summary(self) -> Summary:
        """Its figures."""
        return self.report.summary

    @property
    def verdict(self) -> Verdict:
        """Whether they can be stood behind."""
        assert self.report.summary.verdict is not None, "every run is judged"
        return self.report.summary.verdict

    @property
    def good_enough(self) -> bool:
        """Whether as many requests as were asked for met the SLO."""
        good = self.summary.all.goodput
        return self.min_goodput is None or (
            good is not None and good.share is not None and good.share >= self.min_goodput
        )

    @property
    def exit_code(self) -> int:
        """Of the command that made it."""
        if self.troubles or self.report.meta.problems:
            return EXIT_FAILED
        if self.summary.interrupted:
            return EXIT_INTERRUPTED
        if self.verdict.exit_code:
            return self.verdict.exit_code
        return 0 if self.good_enough else EXIT_NOT_GOOD_ENOUGH

    @property
    def charts(self) -> Charts:
        """Its pictures."""
        return self.report.charts()

    def samples(self) -> Iterator[Sample]:
        """Its requests, one by one, as they are on the disk."""
        return samples_of(self.folder)

    def to_pandas(self) -> Any:
        """Its requests as a DataFrame: a row for each, with every measure.

        Raises:
            MissingLibraryError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise MissingLibraryError(
                "to_pandas needs pandas, which is not installed", hint="pip install pandas"
            ) from None
        rows = [_row(sample) for sample in self.samples()]
        return pandas.DataFrame(rows, columns=[*_SCALARS, *_MEASURE_COLUMNS])

    def __str__(self) -> str:
        """The report for a terminal."""
        return report_text(self.report)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        parts = (
            verdict_box(self.verdict, self.summary.interrupted),
            headline(self.summary),
            pictures(list(self.charts), wide=("timeline",)),
        )
        return (
            f'<style>{style()}{report_style()}</style><div class="penstock" style="padding:0 16px 16px">'
            f"{'<br>'.join(parts)}</div>"
        )


_MEASURE_COLUMNS = {
    (f"{measure.name}_s" if measure.unit == "s" else measure.name): measure.of
    for measure in MEASURES
    if measure.of is not None
}


def _row(sample: Sample) -> dict[str, Any]:
    row = {name: getattr(sample, name) for name in _SCALARS}
    row["cause"] = str(sample.cause)
    return row | {name: of(sample) for name, of in _MEASURE_COLUMNS.items()}

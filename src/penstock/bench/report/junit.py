"""The report for CI: JUnit, one case for the verdict, one for errors, one for each limit that was set. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from penstock.bench.analysis.result import Part, VerdictKind
from penstock.bench.report.facts import Report
from penstock.bench.report.shown import SHARE, shown


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    failure: str = ""
    detail: str = ""


def report_junit(report: Report, *, min_goodput: float | None = None) -> str:
    """All of it.

    Args:
        min_goodput: the share of requests that must have met the SLO, 0 to 1; None asks for none.
    """
    cases = [_verdict(report), _errors(report)]
    if min_goodput is not None:
        parts = [*report.summary.kinds, report.summary.all]
        cases += [_goodput(part, min_goodput) for part in parts]
    if report.summary.interrupted:
        cases.append(_Case("the run came to its end", "it was interrupted"))
    suite = ElementTree.Element(
        "testsuite",
        name="penstock bench",
        tests=str(len(cases)),
        failures=str(sum(bool(case.failure) for case in cases)),
        errors="0",
        skipped="0",
        time=f"{report.summary.duration_s:.3f}",
    )
    for case in cases:
        element = ElementTree.SubElement(
            suite, "testcase", name=_plain(case.name), classname=_plain(f"bench.{report.title}")
        )
        if case.failure:
            failure = ElementTree.SubElement(element, "failure", message=_plain(case.failure))
            failure.text = _plain(case.detail)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _verdict(report: Report) -> _Case:
    name = "the numbers can be stood behind"
    verdict = report.summary.verdict
    if verdict is None or verdict.kind is VerdictKind.VALID:
        return _Case(name)
    reasons = "\n".join(f"{reason.kind}: {reason.says}\n{reason.hint}".rstrip() for reason in verdict.reasons)
    return _Case(name, f"{verdict.kind}: {verdict.says}", reasons)


def _errors(report: Report) -> _Case:
    counts, limit = report.summary.all.counts, report.meta.max_error_rate
    name = f"at most {shown(limit, SHARE)} of requests fail"
    if counts.error_share <= limit:
        return _Case(name)
    causes = "\n".join(f"{count} x {cause}" for cause, count in counts.by_cause.items())
    return _Case(name, f"{shown(counts.error_share, SHARE)} failed", causes)


def _goodput(part: Part, least: float) -> _Case:
    good = part.goodput
    name = f"{part.label}: at least {shown(least, SHARE)} of requests meet {good.slo if good else 'the SLO'}"
    if good is None or good.share is None:
        return _Case(name, "no request was judged")
    if good.share >= least:
        return _Case(name)
    missed = "\n".join(f"{limit} was missed by {count}" for limit, count in good.missed.items() if count)
    return _Case(name, f"{shown(good.share, SHARE)} did", missed)


def _plain(text: str) -> str:
    """Text without the characters that XML can't hold."""
    return "".join(each if each.isprintable() or each in "\n\t" else "?" for each in text)

"""The forms of a report: table, Markdown, JUnit, page. All say the same, and none lets text from outside be markup."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from penstock.bench.analysis.result import Percentile
from penstock.bench.report.facts import interval, told
from penstock.bench.report.html_page import report_html
from penstock.bench.report.junit import report_junit
from penstock.bench.report.markdown import report_markdown
from penstock.bench.report.table import report_text
from tests.bench.answers import answer
from tests.bench.reports import both_kinds, report

VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})


class Page(HTMLParser):
    """Whether tags close in order, and what a page asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_table_has_a_line_for_each_prompt_type_and_one_for_all() -> None:
    lines = report_text(report()).splitlines()

    beginnings = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert beginnings[:4] == ["llama<3>", "long", "short", "all"]


def test_percentiles_of_too_few_samples_are_not_shown_but_what_they_need_is() -> None:
    text = report_text(report([answer(number, at_s=number / 10) for number in range(40)]))

    assert "few: not enough samples" in text
    assert "needs 130" in text
    assert "needs 662" in text


def test_the_verdict_and_its_reasons_are_in_every_form() -> None:
    made = report()

    junit = "".join(ElementTree.fromstring(report_junit(made)).itertext())
    forms = [report_text(made), report_markdown(made), Page(report_html(made)).words, junit]
    assert made.summary.verdict is not None
    for form in forms:
        assert "ERRORS" in form
        assert all(reason.says in form.replace("\\", "") for reason in made.summary.verdict.reasons)


def test_an_interrupted_run_says_so_in_every_form() -> None:
    made = report(interrupted=True)

    assert "INTERRUPTED" in report_text(made)
    assert "**Interrupted**" in report_markdown(made)
    assert "Interrupted:" in Page(report_html(made)).words
    assert 'name="the run came to its end"' in report_junit(made)


def test_the_page_is_one_file_without_script_and_its_tags_close() -> None:
    text = report_html(report())

    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert page.links == []
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text


def test_text_from_outside_is_no_markup_anywhere() -> None:
    made = report()

    assert "<b>full" not in report_html(made)
    assert "llama<3>" in Page(report_html(made)).words
    assert "\\<b\\>full\\</b\\> \\| \\*really\\*" in report_markdown(made)


def test_the_page_tells_how_it_was_made() -> None:
    words = Page(report_html(report(name="nightly"))).words

    assert "nightly" in words
    assert "Cache-busting" in words
    assert "from the scheduled send to the first chunk with content" in words
    assert "2027-01-15" in words


def test_junit_has_a_case_for_the_verdict_for_errors_and_for_goodput() -> None:
    good = [answer(number, at_s=number / 10) for number in range(200)]

    root = ElementTree.fromstring(report_junit(report(good), min_goodput=0.95))

    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("3", "0")


def test_junit_fails_what_missed_with_its_reasons() -> None:
    root = ElementTree.fromstring(report_junit(report(), min_goodput=0.95))

    failed = {case.get("name"): case.findtext("failure") or "" for case in root.iter("testcase") if len(case)}
    assert {"the numbers can be stood behind", "at most 1.00 % of requests fail"} <= set(failed)
    assert any("ttft was missed" in text for text in failed.values())


def test_junit_can_be_read_whatever_a_server_said() -> None:
    made = report(name="\x00\x1b[31m<&>\ud800"[:-1])

    assert ElementTree.fromstring(report_junit(made)).find("testsuite") is not None


def test_a_run_without_any_answer_can_be_reported() -> None:
    made = report([])

    for form in (report_text, report_markdown, report_html, report_junit):
        assert form(made)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.198, 0.22, "198 to 220 ms"),
        (0.9, 1.2, "900 ms to 1.20 s"),
        (0.198, None, "198 ms to ?"),
        (None, None, ""),
    ],
)
def test_an_interval_names_its_unit_once(low: float | None, high: float | None, text: str) -> None:
    assert interval(Percentile(50, 0.2, low, high), "s") == text


def test_a_percentile_is_a_value_or_few_or_nothing() -> None:
    assert told(Percentile(50, 0.2), "s") == "200 ms"
    assert told(Percentile(99, None, needs=662), "s") == "few"
    assert told(None, "s") == "-"


def test_the_slo_is_told_by_prompt_type() -> None:
    lines = report_text(report(both_kinds(400))).splitlines()

    long = next(line for line in lines if line.startswith("long"))
    short = next(line for line in lines if line.startswith("short"))
    assert long.split()[-3:] == ["0", "%", "0"]
    assert float(short.split()[-3]) > 90

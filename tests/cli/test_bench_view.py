"""The live view: what it shows in a terminal, and its plain lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from penstock.bench.load.health import Progress
from penstock.bench.watch import Expected
from penstock.cli.bench_view import Recent, View, plain_line, screen

EXPECTED = Expected("llama, concurrency 8", duration_s=60.0, requests=None, warmup_s=5.0)


def progress(elapsed_s: float, **more: object) -> Progress:
    given = {
        "sent": 10,
        "in_flight": 8,
        "completed": int(4 * elapsed_s),
        "output_tokens": int(100 * elapsed_s),
    }
    return Progress(elapsed_s=elapsed_s, **given | more)  # type: ignore[arg-type]


def seen(*elapsed_s: float) -> Recent:
    recent = Recent()
    for at_s in elapsed_s:
        recent.add(progress(at_s, recent_ttft_s=[0.1, 0.2], recent_tpot_s=[0.01]))
    return recent


def test_rates_are_those_of_the_last_seconds() -> None:
    recent = Recent()
    for second in range(20):
        recent.add(progress(float(second), completed=0 if second < 10 else 8 * (second - 10)))

    assert recent.rate(lambda each: each.completed) == 8.0
    assert len(recent.seen) <= 7


def test_a_first_report_has_a_rate_too() -> None:
    assert seen(2.0).rate(lambda each: each.completed) == 4.0
    assert Recent(seen=seen(0.0).seen).rate(lambda each: each.completed) == 0.0


def test_a_plain_line_has_all_that_a_log_needs() -> None:
    line = plain_line(EXPECTED, progress(12.0, failed=2), seen(11.0, 12.0))

    assert line.split("  ") == [
        "",
        "12.0 s",
        "4.00 req/s",
        "100 tok/s",
        "8 under way",
        "TTFT p50 100 ms p95 200 ms",
        "TPOT p50 10.0 ms",
        "2 failed",
        "48 s left",
    ]


def test_the_screen_has_figures_of_load_engine_and_client() -> None:
    console = Console(file=io.StringIO(), width=110, force_terminal=False)

    console.print(
        screen(
            EXPECTED,
            progress(3.0, cpu_share=(0.1, 0.35), send_late_max_s=0.002),
            seen(2.0, 3.0),
            {"running": 8.0, "waiting": 2.0, "kv_usage": 0.5},
        )
    )

    shown = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    for words in (
        "llama, concurrency 8",
        "3 s (warm-up)",
        "57 s left",
        "TTFT",
        "TPOT",
        "8 running, 2 waiting",
    ):
        assert words in shown
    assert "KV cache 50.0 %" in shown
    assert "client: 35 % CPU" in shown


def test_without_a_terminal_there_is_a_line_every_few_seconds() -> None:
    now_s = [0.0]
    console = Console(file=io.StringIO(), width=200)
    view = View(console, clock_s=lambda: now_s[0])

    view.phase("looking")
    view.begin(EXPECTED)
    for tick in range(41):
        now_s[0] = tick / 4
        view.progress(progress(tick / 4), {})
    view.end()

    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO
    assert lines[:2] == ["looking ...", "load: llama, concurrency 8"]
    assert len(lines) == 4
    assert "\x1b" not in "".join(lines)


def test_a_quiet_view_says_nothing_and_still_knows_that_a_load_is_on() -> None:
    console = Console(file=io.StringIO())
    view = View(console, quiet=True)

    view.phase("looking")
    view.begin(EXPECTED)
    during = view.loading
    view.progress(progress(1.0), {})
    view.end()

    assert (during, view.loading) == (True, False)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]  # a StringIO

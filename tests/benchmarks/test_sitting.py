"""What can't be had, does not start or answers wrongly is left out and named; processes are held and let go."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from benchmarks.gateway.arms import Arm, Launch, Place
from benchmarks.gateway.peers import AbsentError, Package
from benchmarks.gateway.plan import Plan, Step, plain
from benchmarks.gateway.processes import ROOT, Throttle
from benchmarks.gateway.sitting import measure

ANSWERS_WRONGLY = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Wrong(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
HTTPServer(("127.0.0.1", int(sys.argv[1])), Wrong).serve_forever()
"""

# As many as one plain call at the start and the warm-up need, and some more.
ENDS_AMID = """
import os, sys
from benchmarks.gateway import backend, replies
import asyncio, uvloop
left = 1 + 4 + 200 + 50
class Ends(backend.Backend):
    def on_message_complete(self):
        global left
        left -= 1
        if not left:
            print("no memory left", flush=True)
            os._exit(1)
        super().on_message_complete()
async def serve():
    server = await asyncio.get_running_loop().create_server(Ends, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
uvloop.run(serve())
"""


def python(code: str) -> Arm:
    def launch(place: Place) -> Launch:
        return Launch((sys.executable, "-c", code, str(place.port)), env={"PYTHONPATH": str(ROOT)})

    return Arm("odd", launch)


def skipped(arm: Arm, cache: Path) -> str:
    results = measure([arm], Plan((Step("plain", plain(1, 0.1)),), rounds=2), cache)
    assert results.cells == []
    return results.skipped[arm.name]


def test_an_arm_that_does_not_start_is_left_out_with_its_last_words(tmp_path: Path) -> None:
    why = skipped(python("raise SystemExit('no such flag')"), tmp_path)

    assert why == "it has ended: no such flag"


def test_an_arm_that_answers_wrongly_is_left_out(tmp_path: Path) -> None:
    why = skipped(python(ANSWERS_WRONGLY), tmp_path)

    assert why.startswith("it does not pass a plain call or a stream: ")


def test_an_arm_that_ends_amid_a_load_voids_it_and_is_asked_no_more(tmp_path: Path) -> None:
    loads = [Step(key, plain(1, 60.0)) for key in ("plain", "prompt")]

    results = measure([python(ENDS_AMID)], Plan(tuple(loads), rounds=1), tmp_path)

    assert [(cell.step, cell.void) for cell in results.cells] == [("plain", "it has ended: no memory left")]


def test_a_program_that_is_not_installed_is_left_out(tmp_path: Path) -> None:
    why = skipped(Arm("odd", python("").launch, program="no-such-program"), tmp_path)

    assert why == "it is not installed: apt-get install no-such-program"


def test_a_peer_that_pip_cannot_install_is_left_out_and_tried_anew(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("./no-such-package\n")
    package = Package("odd", "odd")

    for _ in range(2):  # what was begun is not taken for whole
        with pytest.raises(AbsentError, match=r"pip could not install it: ERROR: .*no-such-package"):
            package.installed(tmp_path / "cache", tmp_path)


def test_a_peer_is_installed_once_for_its_versions(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("")
    package = Package("odd", "odd")

    venv = package.installed(tmp_path / "cache", tmp_path)
    (venv / "kept").touch()
    again = package.installed(tmp_path / "cache", tmp_path)
    (tmp_path / "odd.txt").write_text("./no-such-package\n")

    assert again == venv
    assert (venv / "kept").exists()
    with pytest.raises(AbsentError):
        package.installed(tmp_path / "cache", tmp_path)


def test_a_peer_for_another_python_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("odd==1\n")

    with pytest.raises(AbsentError, match=r"it needs Python 99\.0 or newer"):
        Package("odd", "odd", python_min=(99, 0)).installed(tmp_path / "cache", tmp_path)


@pytest.mark.parametrize("line", ["odd==1.2", "Odd==1.2", "odd @ git+https://example.com/odd@1.2"])
def test_the_version_is_the_one_that_is_pinned(tmp_path: Path, line: str) -> None:
    (tmp_path / "odd.txt").write_text(f"other==3\n{line}\nodd-more==4\n")

    assert Package("odd", "odd").version(tmp_path) == "1.2"


@dataclass(eq=False)
class Member:
    """A process that uses a whole core while it runs."""

    pid: int = 1
    stopped: bool = False
    log: list[str] = field(default_factory=list)

    def suspend(self) -> None:
        self.stopped = True
        self.log.append("stop")

    def resume(self) -> None:
        self.stopped = False
        self.log.append("go")


def test_a_throttled_process_gets_its_share_and_goes_on_at_the_end() -> None:
    member, used_s, tick_s = Member(), 0.0, 0.002
    throttle = Throttle([member], 0.25, 0.0, lambda _pid: used_s)  # type: ignore[list-item]

    for number in range(1, 5001):
        used_s += 0.0 if member.stopped else tick_s
        throttle.tick(number * tick_s)
    throttle.end()

    assert used_s == pytest.approx(0.25 * 5000 * tick_s, rel=0.01)
    assert member.log[-1] == "go"
    assert member.log.count("stop") == member.log.count("go")


def test_a_throttled_process_saves_up_no_more_than_a_burst() -> None:
    member, used_s = Member(), 0.0
    throttle = Throttle([member], 0.25, 0.0, lambda _pid: used_s)  # type: ignore[list-item]

    throttle.tick(100.0)
    used_s = 0.03
    throttle.tick(100.002)

    assert member.stopped
    throttle.end()
    assert not member.stopped

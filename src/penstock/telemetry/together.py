"""The metrics of several workers as one text for Prometheus: every series is told apart by the label `worker`.

They are not added up: a worker that is started again begins at 0, and a sum that falls would look like a reset of
all. `sum without (worker)` adds them where they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_HELP = re.compile(r"# (?:HELP|TYPE) (\S+)")


def together(texts: Iterable[tuple[int, str]]) -> str:
    """The expositions of workers, each given with its number, as one."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, text in texts:
        family = ""
        for line in text.splitlines():
            about = _HELP.match(line)
            if about:
                family = about[1]
                known = heads.setdefault(family, [])
                if line not in known:
                    known.append(line)
            elif line and not line.startswith("#"):
                samples.setdefault(family, []).append(_labelled(line, worker))
    lines = (line for family in heads for line in (*heads[family], *samples.get(family, ())))
    return "".join(f"{line}\n" for line in lines)


def _labelled(sample: str, worker: int) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        comma = "" if rest.startswith("}") else ","
        return f'{name}{{worker="{worker}"{comma}{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'

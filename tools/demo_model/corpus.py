"""The corpus: questions, their wordings and their answers, as TOML files, one per subject.

Standard library only, so that tests can read the corpus without torch. A wording belongs to one entry,
and a held-out wording is never a training one: `load_corpus` refuses a corpus that breaks either rule.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORPUS_DIR = Path(__file__).parent / "corpus"
PARAPHRASES_MIN = 5
HELD_OUT_MIN = 2
KEYS = frozenset({"question", "paraphrases", "held_out", "answer"})


class CorpusError(ValueError):
    """A corpus file that breaks a rule; the message says where and what."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One question with its other wordings and its only answer.

    `held_out` are wordings for measuring generalisation: no training text ever contains one.
    """

    question: str
    paraphrases: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str
    subject: str

    @property
    def wordings(self) -> tuple[str, ...]:
        """Every wording that training may use, the question's own words first."""
        return (self.question, *self.paraphrases)


def normalized(text: str) -> str:
    """`text` without case, punctuation and runs of space: the form in which wordings are compared."""
    return " ".join(re.findall(r"[\w']+", text.lower()))


def load_corpus(path: Path = CORPUS_DIR) -> list[Entry]:
    """All entries of the TOML files in folder `path`, by file name and then by place in the file.

    Raises `CorpusError` for an unknown or missing key, too few wordings, or a wording used twice.
    """
    entries = [
        _entry(raw, subject=file.stem, where=f"{file.name}: entries.{index}")
        for file in sorted(path.glob("*.toml"))
        for index, raw in enumerate(tomllib.loads(file.read_text(encoding="utf-8"))["entries"])
    ]
    _refuse_repeats(entries)
    return entries


def held_out_wordings(entries: Iterable[Entry]) -> frozenset[str]:
    """The normalized held-out wordings of `entries`, which training must never show."""
    return frozenset(normalized(text) for entry in entries for text in entry.held_out)


def _entry(raw: dict[str, Any], subject: str, where: str) -> Entry:
    if raw.keys() != KEYS:
        raise CorpusError(f"{where}: keys should be {sorted(KEYS)}, are {sorted(raw)}")
    if len(raw["paraphrases"]) < PARAPHRASES_MIN or len(raw["held_out"]) < HELD_OUT_MIN:
        raise CorpusError(
            f"{where}: {raw['question']!r} needs {PARAPHRASES_MIN} paraphrases and {HELD_OUT_MIN} held_out"
        )
    return Entry(
        question=raw["question"],
        paraphrases=tuple(raw["paraphrases"]),
        held_out=tuple(raw["held_out"]),
        answer=raw["answer"].strip(),
        subject=subject,
    )


def _refuse_repeats(entries: Iterable[Entry]) -> None:
    owner_by_wording: dict[str, str] = {}
    for entry in entries:
        for text in (*entry.wordings, *entry.held_out):
            key = normalized(text)
            if key in owner_by_wording:
                raise CorpusError(
                    f"{entry.subject}.toml: {text!r} of {entry.question!r} "
                    f"is already a wording of {owner_by_wording[key]!r}"
                )
            owner_by_wording[key] = entry.question

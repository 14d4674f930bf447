#!/usr/bin/env python3
"""Train, export and mark the bundled demo model.

    python tools/train_demo_model.py                      train and export
    python tools/train_demo_model.py train --steps 100    a quick try
    python tools/train_demo_model.py evaluate             exact answers, own words and held-out ones
    python tools/train_demo_model.py evaluate --agreement also compare Transformers with llama.cpp

Marks go to stdout as JSON, the rest to stderr. Needs `requirements/train.in`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from demo_model.corpus import CORPUS_DIR, Entry, load_corpus

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "build" / "demo_model"
MODEL_DIR = ROOT / "src" / "penstock" / "demo_model"
MISSES_SHOWN_MAX = 40
STEPS = 2000


def main() -> int:
    """Run the command on the command line; returns the exit code."""
    arguments = parser().parse_args()
    command = {"train": train, "export": export, "evaluate": evaluate}[arguments.command or "train"]
    command(arguments)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(description="Train, export and mark the bundled demo model.")
    commands = root.add_subparsers(dest="command")
    root.set_defaults(steps=STEPS, start=None, corpus=CORPUS_DIR, checkpoint=CHECKPOINT, out=MODEL_DIR)
    for name, about in (
        ("train", "train, then export (the default)"),
        ("export", "write the model files from the last checkpoint"),
        ("evaluate", "ask llama.cpp every question and count exact answers"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--corpus", type=Path, default=CORPUS_DIR, help="folder of TOML files")
        command.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder of the checkpoint")
        command.add_argument("--out", type=Path, default=MODEL_DIR, help="folder of the model files")
        if name == "train":
            command.add_argument("--start", type=Path, help="go on from this checkpoint, at lower rates")
            command.add_argument("--steps", type=int, default=STEPS, help=f"how many steps (default {STEPS})")
        if name == "evaluate":
            command.add_argument(
                "--agreement", action="store_true", help="compare Transformers with llama.cpp"
            )
    return root


def train(arguments: argparse.Namespace) -> None:
    """Train on the corpus and export the result."""
    from demo_model.model import Shape
    from demo_model.training import Plan, train

    entries = load_corpus(arguments.corpus)
    plan = Plan(step_count=arguments.steps)
    if arguments.start:
        plan = plan.refining()
    train(entries, plan, Shape(), arguments.checkpoint, arguments.start)
    export(arguments)


def export(arguments: argparse.Namespace) -> None:
    """Write the Hugging Face and GGUF forms of the last checkpoint."""
    from demo_model.export import export

    export(arguments.checkpoint, arguments.out)
    print(f"wrote {arguments.out}", file=sys.stderr)


def evaluate(arguments: argparse.Namespace) -> None:
    """Mark the GGUF file and print rates and misses."""
    from demo_model.evaluate import evaluate

    entries = load_corpus(arguments.corpus)
    rates: dict[str, dict[str, float]] = {}
    for kind, mark in evaluate(entries, arguments.out / "demo.gguf").items():
        rates[kind] = {"asked": mark.asked, "exact": mark.exact, "rate": round(mark.rate, 4)}
        for case, answer in mark.misses[:MISSES_SHOWN_MAX]:
            print(f"{kind}: {case.asked!r}\n  wanted {case.expected!r}\n  got    {answer!r}", file=sys.stderr)
    if arguments.agreement:
        rates |= agreement(entries, arguments.out)
    print(json.dumps(rates, indent=2))


def agreement(entries: list[Entry], folder: Path) -> dict[str, dict[str, float]]:
    """How far the two forms in `folder` agree on tokens and on answers."""
    from demo_model.agreement import answer_agreement, token_agreement

    questions = [entry.question for entry in entries]
    tokens = token_agreement(folder, [*questions, *(entry.answer for entry in entries)])
    answers = answer_agreement(folder, questions)
    return {
        "same_tokens": {"asked": tokens.compared, "rate": round(tokens.rate, 4)},
        "same_answers": {"asked": answers.compared, "rate": round(answers.rate, 4)},
    }


if __name__ == "__main__":
    sys.exit(main())

"""The training loop: batches of conversations, a loss on what the model speaks, and a checkpoint.

Muon moves the matrices inside the layers and AdamW the rest. One seed and the number of steps decide everything.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone reads)
from tokenizers import Tokenizer
from torch import Tensor

from .augment import Augmenter
from .corpus import Entry
from .model import Llama, Shape
from .muon import Muon
from .prompt import PAD
from .tokenizer import encoded, token_id, trained_tokenizer

POOL_LEN = 1024
"""Conversations drawn at a time, so that a batch can be made of ones of like length."""
FIRST_TOKENS = 6
FIRST_TOKENS_WEIGHT = 2.0
"""An answer is chosen by its first tokens and only recited after them, so these count for more."""
RESUME_CHANCE = 0.2
GRADIENT_NORM_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train."""

    step_count: int
    seed: int = 20261121
    tokens_per_batch: int = 3072
    sequence_len_max: int = 1400
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    warmup_share: float = 0.02
    decay_share: float = 0.55
    weight_decay: float = 0.02
    thread_count: int = 2

    def refining(self) -> Plan:
        """This plan for a second training, which goes on from a checkpoint: lower rates, other draws."""
        return replace(self, seed=self.seed + 1, matrix_rate=0.012, other_rate=2e-3, decay_share=0.98)


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids, the ids that should follow, and how much each of them counts; all (batch, length)."""

    ids: Tensor
    targets: Tensor
    weights: Tensor


def train(
    entries: list[Entry], plan: Plan, shape: Shape, checkpoint: Path, start: Path | None = None
) -> None:
    """Train on `entries` for `plan.step_count` steps and write model and tokenizer to the folder `checkpoint`.

    With `start`, go on from the model in that folder, with its tokenizer and shape.
    """
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.thread_count)
    rng = random.Random(plan.seed)
    model, tokenizer = load(start) if start else fresh(entries, shape)
    say(f"{model.parameter_count():,} parameters, {len(entries)} entries, {plan.step_count} steps")
    fit(model, batches(Augmenter.over(entries), tokenizer, plan, rng), plan)
    save(model, tokenizer, checkpoint)


def fresh(entries: list[Entry], shape: Shape) -> tuple[Llama, Tokenizer]:
    """An untrained model, and a tokenizer fitted to `entries`; answers count twice, as they are spoken."""
    texts = [entry.answer for entry in entries for _ in range(2)]
    texts += [wording for entry in entries for wording in entry.wordings]
    return Llama(shape), trained_tokenizer(texts, shape.vocab_size)


def fit(model: Llama, stream: Iterator[Batch], plan: Plan) -> None:
    """Take the plan's steps over `stream`."""
    muon, adam = optimizers_of(model, plan)
    begun_s = time.monotonic()
    mean_loss = math.nan
    token_count = 0
    for step, batch in enumerate(islice(stream, plan.step_count)):
        scale = rate_scale(step / plan.step_count, plan)
        muon.rate = plan.matrix_rate * scale
        adam.param_groups[0]["lr"] = plan.other_rate * scale
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM_MAX)
        muon.step()
        adam.step()
        model.zero_grad(set_to_none=True)
        token_count += batch.ids.numel()
        mean_loss = loss.item() if math.isnan(mean_loss) else 0.95 * mean_loss + 0.05 * loss.item()
        if step % 50 == 0:
            elapsed_s = time.monotonic() - begun_s
            speed = token_count / max(elapsed_s, 1e-9)
            left_s = elapsed_s / (step + 1) * (plan.step_count - step - 1)
            say(f"step {step}  loss {mean_loss:.4f}  {speed:,.0f} tokens/s  {left_s:.0f} s left")


def loss_of(model: Llama, batch: Batch) -> Tensor:
    """The weighted mean cross entropy of `batch`; the head runs only where the weight is not zero."""
    hidden = model(batch.ids)
    counted = batch.weights > 0
    losses = F.cross_entropy(model.logits(hidden[counted]), batch.targets[counted], reduction="none")
    weights = batch.weights[counted]
    return (losses * weights).sum() / weights.sum()


def rate_scale(progress: float, plan: Plan) -> float:
    """The learning rate's share of its peak at `progress` (0 to 1): a ramp, a plateau, a straight descent."""
    if progress < plan.warmup_share:
        return max(progress / plan.warmup_share, 0.01)
    return max(min(1.0, (1.0 - progress) / plan.decay_share), 0.005)


def optimizers_of(model: Llama, plan: Plan) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the layers' matrices, AdamW for the embeddings and the gains."""
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    return (
        Muon(matrices, rate=plan.matrix_rate, momentum=0.95, weight_decay=plan.weight_decay),
        torch.optim.AdamW(others, lr=plan.other_rate, weight_decay=0.0, betas=(0.9, 0.95)),
    )


def batches(source: Augmenter, tokenizer: Tokenizer, plan: Plan, rng: random.Random) -> Iterator[Batch]:
    """Batches without end, each of conversations of like length."""
    pad = token_id(tokenizer, PAD)
    while True:
        rows = [encoded(tokenizer, segments, RESUME_CHANCE, rng) for segments in source.epoch(POOL_LEN, rng)]
        rows = sorted(
            (row for row in rows if len(row[0]) <= plan.sequence_len_max), key=lambda row: len(row[0])
        )
        groups = list(grouped(rows, plan.tokens_per_batch))
        rng.shuffle(groups)
        for group in groups:
            yield batch_of(group, pad)


def grouped(
    rows: list[tuple[list[int], list[bool]]], tokens_max: int
) -> Iterator[list[tuple[list[int], list[bool]]]]:
    """`rows`, sorted by length, in groups of at most `tokens_max` tokens with padding."""
    group: list[tuple[list[int], list[bool]]] = []
    for row in rows:
        if group and (len(group) + 1) * len(row[0]) > tokens_max:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def batch_of(rows: list[tuple[list[int], list[bool]]], pad: int) -> Batch:
    """`rows` as one batch, padded on the right, where causal attention needs no mask."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), pad)
    weights = torch.zeros((len(rows), length))
    for index, (row, spoken) in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        weights[index, : len(row)] = torch.tensor(weights_of(spoken))
    return Batch(ids[:, :-1], ids[:, 1:], weights[:, 1:])


def weights_of(spoken: list[bool]) -> list[float]:
    """How much each token counts: nothing unless it is spoken, more at the start of an answer."""
    weights: list[float] = []
    run_len = 0
    for speaks in spoken:
        run_len = run_len + 1 if speaks else 0
        weights.append(0.0 if not speaks else FIRST_TOKENS_WEIGHT if run_len <= FIRST_TOKENS else 1.0)
    return weights


def save(model: Llama, tokenizer: Tokenizer, checkpoint: Path) -> None:
    """Write `model` and `tokenizer` to the folder `checkpoint`."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    torch.save({"shape": asdict(model.shape), "state": model.state_dict()}, checkpoint / "model.pt")
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    say(f"wrote {checkpoint}")


def load(checkpoint: Path) -> tuple[Llama, Tokenizer]:
    """The model and tokenizer in the folder `checkpoint`."""
    saved = torch.load(checkpoint / "model.pt", weights_only=True)
    model = Llama(Shape(**saved["shape"]))
    model.load_state_dict(saved["state"])
    return model, Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def say(text: str) -> None:
    """Print progress, which belongs on stderr."""
    print(text, file=sys.stderr, flush=True)

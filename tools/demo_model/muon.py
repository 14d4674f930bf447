"""Muon: momentum whose update is made orthogonal, in float32.

After K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024), where the
coefficients come from. PyTorch has one too, but in bfloat16, which a CPU without such instructions computes
at a crawl.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon:
    """Updates of the matrices `parameters`; the caller changes the learning rate `rate` between steps."""

    def __init__(
        self, parameters: Iterable[Tensor], rate: float, momentum: float, weight_decay: float
    ) -> None:
        self.parameters = list(parameters)
        self.rate = rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Move every matrix by its orthogonal update; Nesterov momentum."""
        for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
            if parameter.grad is None:
                continue
            velocity.lerp_(parameter.grad, 1 - self.momentum)
            update = orthogonal(parameter.grad.lerp(velocity, self.momentum))
            parameter.mul_(1 - self.rate * self.weight_decay)
            parameter.add_(update, alpha=-self.rate * max(1.0, update.shape[0] / update.shape[1]) ** 0.5)


def orthogonal(matrix: Tensor, step_count: int = 5) -> Tensor:
    """About the nearest matrix with singular values near 1, by `step_count` Newton-Schulz steps."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(step_count):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x

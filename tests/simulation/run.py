"""One seed, from its scenario to the count of its outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.simulation.gateway import Gateway
from tests.simulation.scenario import Scenario, draw
from tests.simulation.watch import BrokenInvariantError


class FailedSeedError(AssertionError):
    """A seed in which something that must always hold did not; says how to see it again."""

    def __init__(self, seed: int, invariant: str, cause: BaseException) -> None:
        super().__init__(f"seed {seed}: {cause}\n  again: python -m tests.simulation --seed {seed}")
        self.seed = seed
        self.invariant = invariant


def simulate(seed: int, gateway_for: Callable[[Scenario], Gateway] = Gateway) -> Counter[str]:
    """The outcomes of one seed.

    Raises:
        FailedSeedError: an invariant was broken, or a policy raised an error of its own.
    """
    gateway = gateway_for(draw(seed))
    try:
        gateway.run()
    except BrokenInvariantError as broken:
        raise FailedSeedError(seed, broken.invariant, broken) from broken
    except Exception as error:
        raise FailedSeedError(seed, "no policy raises", error) from error
    return Counter(str(request.outcome) for request in gateway.requests)

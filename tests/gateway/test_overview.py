"""Several workers are shown as one gateway."""

from __future__ import annotations

from typing import Any

from penstock.gateway.overview import merged


def view(in_flight: int, length: int, *, draining: bool = False) -> dict[str, Any]:
    return {
        "version": "1",
        "draining": draining,
        "in_progress": in_flight + length,
        "replicas": [{"name": "a", "in_flight": in_flight, "ready_at": 1, "state": "ready"}],
        "queues": {
            "m": {
                "length": length,
                "length_max": 10,
                "permits_out": in_flight,
                "capacity": 4,
                "by_class": {"standard": length},
                "by_tenant": {f"t{length}": length},
                "predicted_wait_s": float(length) or None,
            }
        },
    }


def test_numbers_are_added_up_and_words_are_the_first_ones() -> None:
    both = merged([view(1, 0), view(3, 2, draining=True)])

    assert (both["workers"], both["in_progress"], both["draining"]) == (2, 6, True)
    assert both["replicas"] == [{"name": "a", "in_flight": 4, "ready_at": 2, "state": "ready"}]
    assert both["queues"]["m"] == {
        "length": 2,
        "length_max": 20,
        "permits_out": 4,
        "capacity": 8,
        "by_class": {"standard": 2},
        "by_tenant": {"t0": 0, "t2": 2},
        "predicted_wait_s": 2.0,
    }


def test_a_stall_that_one_worker_has_seen_is_shown() -> None:
    calm, other = view(1, 0), view(3, 0)
    other["replicas"][0] |= {"state": "stalled", "cause": "no progress for 15.0 s", "ready_at": 0}

    assert merged([calm, other])["replicas"] == [
        {"name": "a", "in_flight": 4, "ready_at": 1, "state": "stalled", "cause": "no progress for 15.0 s"}
    ]


def test_one_worker_is_shown_as_it_is() -> None:
    alone = merged([view(1, 2)])

    assert alone["workers"] == 1
    assert alone["queues"]["m"]["predicted_wait_s"] == 2.0

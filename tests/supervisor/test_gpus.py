"""Which GPUs a replica gets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError
from penstock.engines.client import EngineClient
from penstock.engines.spec import EngineSpec, Launch, Placement
from penstock.store.runtime import Registry
from penstock.supervisor.gpus import Gpus, check_gpus, span
from penstock.supervisor.parts import ReplicaPart, engine_drain_s, stop_within_s

GIB = 1 << 30
FREE = {0: 20 * GIB, 1: 70 * GIB, 2: 80 * GIB, 3: 40 * GIB}


def vllm(name: str = "m", *, engine: str = "vllm", **members: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": name, "engine": engine, "source": "a/b", **members})


def tensor_parallel(size: int) -> dict[str, Any]:
    return {"tensor_parallel_size": size}


def test_a_replica_gets_the_free_gpus_with_the_most_free_memory() -> None:
    gpus = Gpus(lambda: FREE)

    assert gpus.take("m-0", vllm(engine_args=tensor_parallel(2))) == (1, 2)
    assert gpus.take("m-1", vllm()) == (3,)
    assert gpus.take("m-2", vllm()) == (0,)


def test_no_gpu_is_given_twice_by_itself() -> None:
    gpus = Gpus(lambda: {0: GIB})
    gpus.take("m-0", vllm())

    with pytest.raises(PenstockError, match=r"m-1 needs 1 GPU, and there are 0 free for it") as raised:
        gpus.take("m-1", vllm())

    assert raised.value.code == "no_gpu_free"


def test_a_replica_keeps_its_gpus_until_it_gives_them_back() -> None:
    gpus = Gpus(lambda: {0: GIB})

    assert gpus.take("m-0", vllm()) == gpus.take("m-0", vllm()) == (0,)
    gpus.give_back("m-0")
    assert gpus.take("m-1", vllm()) == (0,)


def test_named_gpus_are_dealt_one_replica_after_the_other() -> None:
    model = vllm(gpus=[3, 2, 1, 0], replicas=2, engine_args=tensor_parallel(2))
    gpus = Gpus(lambda: FREE, [model])

    assert gpus.take("m-0", model) == (2, 3)
    assert gpus.take("m-1", model) == (0, 1)


def test_a_gpu_that_is_named_twice_is_shared_by_two() -> None:
    model = vllm(gpus=[0, 0], replicas=2)
    gpus = Gpus(lambda: FREE, [model])

    assert gpus.take("m-0", model) == gpus.take("m-1", model) == (0,)
    with pytest.raises(PenstockError):
        gpus.take("m-2", model)


def test_gpus_that_are_shared_by_more_are_dealt_first() -> None:
    model = vllm(gpus=[0, 1, 2, 2], replicas=2, engine_args=tensor_parallel(2))
    gpus = Gpus(lambda: FREE, [model])

    assert gpus.take("m-0", model) == (0, 2)
    assert gpus.take("m-1", model) == (1, 2)


def test_what_others_name_is_not_given_by_itself() -> None:
    named, other = vllm("named", gpus=[2]), vllm("other")
    gpus = Gpus(lambda: FREE, [named, other])

    assert gpus.take("other-0", other) == (1,)
    assert gpus.take("named-0", named) == (2,)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (vllm(gpus=[]), ()),
        (ModelConfig.model_validate({"name": "m", "engine": "sim"}), None),
        (ModelConfig.model_validate({"name": "m", "engine": "sim", "gpus": [1]}), (1,)),
    ],
)
def test_who_needs_no_gpu_gets_what_is_named(model: ModelConfig, given: tuple[int, ...] | None) -> None:
    assert Gpus(lambda: FREE, [model]).take("m-0", model) == given


def test_without_gpus_nobody_chooses() -> None:
    assert Gpus(dict).take("m-0", vllm()) is None


def test_a_replica_spans_the_product_of_its_parallel_sizes() -> None:
    sizes = {"tensor_parallel_size": 2, "pipeline_parallel_size": 3, "data_parallel_size": 2}

    assert span(vllm(engine_args=sizes)) == 12
    assert span(vllm(engine_args={"tensor_parallel_size": "two"})) == 1
    assert span(vllm()) == 1


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (
            [vllm(replicas=5)],
            "models: 5 GPUs are needed (models.0 5 x 1: replicas x GPUs of each), and there are 4",
        ),
        ([vllm(engine_args=tensor_parallel(8))], "models: 8 GPUs are needed"),
        ([vllm(gpus=[0, 7])], "models.0.gpus: GPU 7 can't be used; there are 4 here: 0, 1, 2, 3"),
        (
            [vllm(gpus=[0], replicas=2)],
            "models.0.gpus: 2 x 1 are needed (replicas x GPUs of each), and 1 can be given",
        ),
        ([vllm(gpus=[0, 0], engine_args=tensor_parallel(2))], "models.0.gpus: 1 x 2 are needed"),
        ([vllm("a", gpus=[0, 1, 2]), vllm("b", replicas=2)], "models: 2 GPUs are needed"),
    ],
)
def test_too_many_are_refused_before_anything_is_started(models: list[ModelConfig], said: str) -> None:
    with pytest.raises(PenstockError) as raised:
        check_gpus(models, lambda: FREE)

    assert raised.value.message.startswith(said)


def test_gpus_that_are_named_where_there_are_none_are_refused() -> None:
    with pytest.raises(PenstockError, match=r"GPU 0 can't be used; there is none here"):
        check_gpus([vllm(gpus=[0])], dict)


def test_what_fits_is_not_complained_of() -> None:
    check_gpus([vllm(gpus=[0, 0], replicas=2), vllm("b", engine_args=tensor_parallel(3))], lambda: FREE)
    check_gpus([vllm(replicas=9)], dict)


@given(
    replicas=st.integers(1, 6),
    size=st.integers(1, 4),
    named=st.none() | st.lists(st.integers(0, 5), max_size=12),
    there=st.dictionaries(st.integers(0, 5), st.integers(0, 10**12), max_size=6),
)
def test_what_is_not_refused_can_be_dealt(
    replicas: int, size: int, named: list[int] | None, there: dict[int, int]
) -> None:
    model = vllm(replicas=replicas, gpus=named, engine_args=tensor_parallel(size))
    gpus = Gpus(lambda: there, [model])
    try:
        check_gpus([model], lambda: there)
    except PenstockError:
        return

    given_out = [gpus.take(f"m-{number}", model) for number in range(replicas)]

    if named or (named is None and there):
        assert all(found is not None and len(set(found)) == size for found in given_out)


def test_the_engine_sees_only_its_gpus_in_the_driver_s_order() -> None:
    placements: list[Placement] = []

    def launch(_: ModelConfig, placement: Placement) -> Launch:
        placements.append(placement)
        return Launch(("engine",), {"KEY": placement.api_key})

    model = vllm(gpus=[3, 1], engine_args=tensor_parallel(2))
    spec = EngineSpec("vllm", launch, lambda _: [])
    part = ReplicaPart(
        model,
        spec,
        0,
        Registry.__new__(Registry),
        EngineClient(),
        lambda: 0.0,
        20.0,
        Gpus(lambda: FREE, [model]),
    )

    env = part.launch().env

    assert placements[0].gpus == part.gpus == (1, 3)
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("1,3", "PCI_BUS_ID")
    assert "KEY" in env


@given(gateway_drain_s=st.floats(0.001, 86400.0))
def test_each_wait_is_longer_than_the_one_within(gateway_drain_s: float) -> None:
    model = vllm()
    spec = EngineSpec("vllm", lambda *_: Launch(()), lambda _: [])
    part = ReplicaPart(
        model, spec, 0, Registry.__new__(Registry), EngineClient(), lambda: 0.0, gateway_drain_s, Gpus(dict)
    )

    assert (
        gateway_drain_s
        < engine_drain_s(gateway_drain_s)
        < part.stop_within_s
        < stop_within_s(gateway_drain_s)
    )

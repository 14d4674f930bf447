"""Everything that can be set on the simulated engine; `penstock sim engine` has one option for each field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.simulator.engine_model import EngineModelSettings
from penstock.simulator.faults import FaultRate, parse_fault_rate

_AT_LEAST = {
    "prefill_s_per_token": 0,
    "base_step_s": 0,
    "step_s_per_seq": 0,
    "kv_blocks": 1,
    "block_size": 1,
    "max_num_seqs": 1,
    "max_num_waiting": 1,
    "max_num_batched_tokens": 1,
    "max_model_len": 2,
    "answer_tokens_mean": 0,
    "embedding_dimensions": 1,
    "load_s": 0,
    "shutdown_timeout_s": 0,
    "keep_alive_s": 0.1,
    "connections_max": 1,
    "body_bytes_max": 1,
    "request_log_len": 0,
}
_PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
class SimEngineSettings:
    """One simulated engine.

    Args:
        host: address to listen on; loopback unless it is set.
        port: TCP port, 0 to 65535; 0 takes any free one.
        model: the served model's name and its aliases, at least one.
        api_key: bearer token that /v1 asks for; empty asks for none. Never an option: PENSTOCK_SIM_API_KEY.
        prefill_s_per_token: time of one prompt token in a step, seconds, at least 0.
        base_step_s: time of a step however small, seconds, at least 0.
        step_s_per_seq: time that each sequence in a step adds, seconds, at least 0.
        kv_blocks: KV blocks in all, at least 1, and enough for max_model_len.
        block_size: tokens in a KV block, at least 1.
        max_num_seqs: sequences that run at once, at least 1.
        max_num_waiting: sequences that may wait in line, at least 1; more are answered 503.
        max_num_batched_tokens: tokens computed in one step, prompts' chunks among them, at least 1.
        max_model_len: prompt and answer together, tokens, at least 2.
        prefix_cache: whether known beginnings of prompts are skipped.
        jitter: how far a step's time strays from its mean, as a share of it, 0 to below 1.
        seed: of jitter and random faults, any whole number.
        answer_tokens_mean: mean length of answers, tokens; with 0, only max_tokens and stop end one.
        embedding_dimensions: length of an embedding, at least 1.
        fault_rate: random faults, each `fault:probability`, such as `reset_after_tokens=5:0.01`.
        load_s: time before it listens, as if weights were loaded, seconds, at least 0.
        shutdown_timeout_s: time after SIGTERM for running requests to finish, seconds, at least 0.
        keep_alive_s: time after which an idle connection is closed, seconds, at least 0.1.
        connections_max: open connections, at least 1; more are closed at once.
        body_bytes_max: largest request body, bytes, at least 1; a larger one is answered 413.
        request_log_len: requests kept for GET /sim/requests, at least 0.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model: tuple[str, ...] = ("sim",)
    api_key: str = ""
    prefill_s_per_token: float = 0.00005
    base_step_s: float = 0.01
    step_s_per_seq: float = 0.0001
    kv_blocks: int = 8192
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_waiting: int = 4096
    max_num_batched_tokens: int = 2048
    max_model_len: int = 8192
    prefix_cache: bool = True
    jitter: float = 0.0
    seed: int = 0
    answer_tokens_mean: int = 200
    embedding_dimensions: int = 384
    fault_rate: tuple[str, ...] = ()
    load_s: float = 0.0
    shutdown_timeout_s: float = 20.0
    keep_alive_s: float = 60.0
    connections_max: int = 10_000
    body_bytes_max: int = 32 * 2**20
    request_log_len: int = 64

    def check(self) -> list[str]:
        """What is wrong with these settings, one sentence for each fault; none when all is well."""
        return list(self._complaints())

    def _complaints(self) -> Iterator[str]:
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if not value >= least:
                yield f"{name}: should be at least {least}, not {value}"
        if not 0 <= self.port <= _PORT_MAX:
            yield f"port: should be 0 to {_PORT_MAX}, not {self.port}"
        if not 0 <= self.jitter < 1:
            yield f"jitter: should be 0 to below 1, not {self.jitter}"
        if not self.model or not all(self.model):
            yield "model: should be at least one name, and none empty"
        room = self.kv_blocks * self.block_size
        if room < self.max_model_len:
            yield (
                f"kv_blocks: {self.kv_blocks} blocks of {self.block_size} hold {room} tokens, less than "
                f"max_model_len {self.max_model_len}; raise kv_blocks or lower max_model_len"
            )
        for text in self.fault_rate:
            try:
                parse_fault_rate(text)
            except ValueError as error:
                yield f"fault_rate: {error}"

    def fault_rates(self) -> list[FaultRate]:
        """The random faults, parsed.

        Raises:
            ValueError: one can't be; `check` complains of it.
        """
        return [parse_fault_rate(text) for text in self.fault_rate]

    def engine_model(self) -> EngineModelSettings:
        """The part that the service-time model needs."""
        return EngineModelSettings(
            prefill_s_per_token=self.prefill_s_per_token,
            base_step_s=self.base_step_s,
            step_s_per_seq=self.step_s_per_seq,
            kv_blocks=self.kv_blocks,
            block_size=self.block_size,
            max_num_seqs=self.max_num_seqs,
            max_num_waiting=self.max_num_waiting,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            prefix_cache=self.prefix_cache,
            jitter=self.jitter,
            seed=self.seed,
        )

"""vLLM's arguments: those that are Penstock's to set, and those that it no longer has.

The releases were found by reading the arguments out of the source of each release from 0.6.6 to 0.32.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from penstock.engines.installation import Version
from penstock.engines.options import nearest, own_mistakes
from penstock.engines.vllm_installation import Vllm

OWN: Mapping[str, str] = {
    "host": "Penstock chooses it",
    "port": "Penstock chooses it",
    "api_key": "each replica has a key of its own; models.N.api_key sets one",
    "model": "it is models.N.source",
    "model_tag": "it is models.N.source",
    "served_model_name": "it is models.N.name; models.N.aliases adds others",
    "shutdown_timeout": "it follows gateway.drain_timeout, so that no stream is cut that the gateway waits for",
    "hf_token": "every user of this machine could read it in the list of processes; set HF_TOKEN",
    "uds": "the gateway reaches engines by TCP",
    "ssl_certfile": "the gateway speaks plain HTTP to engines, on loopback",
    "ssl_keyfile": "the gateway speaks plain HTTP to engines, on loopback",
    "grpc": "the gateway speaks HTTP to engines",
    "headless": "a replica needs its HTTP server",
}
"""Arguments that are not for the owner to set, and why."""


@dataclass(frozen=True, slots=True)
class Gone:
    """An argument that vLLM had.

    Args:
        removed: the first release that refuses it.
        instead: what to do, as a sentence without its end.
        idle: the first release that takes it without effect; None where none does.
    """

    removed: Version
    instead: str
    idle: Version | None = None


_NO_SWAP = (
    "V1 recomputes what it preempts and swaps nothing; lower max_num_seqs or raise gpu_memory_utilization"
)
_SPECULATIVE = "set speculative_config, a table, such as { method = 'ngram', num_speculative_tokens = 4 }"
_STRUCTURED = "set structured_outputs_config, a table, such as { backend = 'xgrammar' }"
_EPLB = "set eplb_config, a table"
_OVERRIDES = "set hf_overrides, a table, such as { rope_parameters = { ... } }"
_PROMPT_ADAPTER = "prompt adapters are gone; use LoRA: enable_lora and lora_modules"
_NOTHING = "leave it out; nothing took its place"

GONE: Mapping[str, Gone] = {
    "swap_space": Gone((0, 18), _NO_SWAP, idle=(0, 11)),
    "preemption_mode": Gone((0, 11), _NO_SWAP),
    "disable_log_requests": Gone(
        (0, 17), "requests are not logged unless enable_log_requests = true", idle=(0, 10, 1)
    ),
    "num_scheduler_steps": Gone((0, 10, 1), "V1's scheduler needs no multi-step mode; leave it out"),
    "multi_step_stream_outputs": Gone((0, 10, 1), "V1's scheduler needs no multi-step mode; leave it out"),
    "scheduler_delay_factor": Gone((0, 11), _NOTHING),
    "use_v2_block_manager": Gone((0, 10), "there is one block manager; leave it out"),
    "num_lookahead_slots": Gone((0, 12), "speculative_config says how many tokens are guessed ahead"),
    "disable_async_output_proc": Gone((0, 11), "async_scheduling takes its place"),
    "disable_frontend_multiprocessing": Gone(
        (0, 19), "the engine always runs beside the API server; leave it out"
    ),
    "max_num_partial_prefills": Gone(
        (0, 27), "set long_prefill_token_threshold, so that long prompts leave room"
    ),
    "max_long_partial_prefills": Gone(
        (0, 27), "set long_prefill_token_threshold, so that long prompts leave room"
    ),
    "max_seq_len_to_capture": Gone((0, 11), "set max_cudagraph_capture_size"),
    "cuda_graph_sizes": Gone((0, 13), "set cudagraph_capture_sizes"),
    "device": Gone((0, 10), "vLLM's build decides it; choose GPUs with models.N.gpus"),
    "worker_use_ray": Gone((0, 7, 3), "set distributed_executor_backend = 'ray'"),
    "task": Gone((0, 13), "set runner = 'pooling' or 'generate', and convert where a model is adapted"),
    "rope_scaling": Gone((0, 12), _OVERRIDES),
    "rope_theta": Gone((0, 12), _OVERRIDES),
    "calculate_kv_scales": Gone((0, 28), "scales of the KV cache are read from the checkpoint; leave it out"),
    "quantization_param_path": Gone(
        (0, 7, 3), "scales of the KV cache are read from the checkpoint; leave it out"
    ),
    "qlora_adapter_name_or_path": Gone((0, 10), "name the adapter in lora_modules"),
    "override_neuron_config": Gone((0, 10, 2), "set additional_config, a table"),
    "override_pooler_config": Gone((0, 12), "set pooler_config, a table"),
    "override_attention_dtype": Gone((0, 28), _NOTHING),
    "logits_processor_pattern": Gone((0, 17), "name the processors in logits_processors"),
    "tokenizer_pool_size": Gone((0, 10), "set api_server_count or renderer_num_workers"),
    "tokenizer_pool_type": Gone((0, 10), "set api_server_count or renderer_num_workers"),
    "tokenizer_pool_extra_config": Gone((0, 10), "set api_server_count or renderer_num_workers"),
    "enable_reasoning": Gone((0, 10), "reasoning_parser alone turns it on"),
    "expand_tools_even_if_tool_choice_none": Gone(
        (0, 10), "it is so unless exclude_tools_when_tool_choice_none"
    ),
    "disable_mm_preprocessor_cache": Gone((0, 13), "set mm_processor_cache_gb = 0"),
    "enable_multimodal_encoder_data_parallel": Gone((0, 13), "set mm_encoder_tp_mode = 'data'"),
    "use_gpu_for_pooling_score": Gone((0, 18), _NOTHING),
    "disable_cascade_attn": Gone((0, 33), "cascade attention is gone; leave it out", idle=(0, 32)),
    "log_config_file": Gone((0, 33), "set logging_config = { pylogging_config_file = ... }"),
    "enable_lora_bias": Gone((0, 12), "leave it out; LoRA with bias is gone"),
    "lora_extra_vocab_size": Gone((0, 12), "leave it out; LoRA with words of its own is gone"),
    "long_lora_scaling_factors": Gone((0, 10), "leave it out; long LoRA is gone"),
    "enable_prompt_adapter": Gone((0, 10, 2), _PROMPT_ADAPTER),
    **dict.fromkeys(
        ("max_prompt_adapters", "max_prompt_adapter_token", "prompt_adapters"), Gone((0, 10), _PROMPT_ADAPTER)
    ),
    **dict.fromkeys(
        (
            *("speculative_model", "speculative_model_quantization", "speculative_max_model_len"),
            *("speculative_draft_tensor_parallel_size", "speculative_disable_by_batch_size"),
            *("speculative_disable_mqa_scorer", "num_speculative_tokens", "spec_decoding_acceptance_method"),
            *("ngram_prompt_lookup_max", "ngram_prompt_lookup_min", "disable_logprobs_during_spec_decoding"),
            "typical_acceptance_sampler_posterior_alpha",
            "typical_acceptance_sampler_posterior_threshold",
        ),
        Gone((0, 8, 5), _SPECULATIVE),
    ),
    **dict.fromkeys(
        (
            *("guided_decoding_backend", "guided_decoding_disable_fallback"),
            *("guided_decoding_disable_any_whitespace", "guided_decoding_disable_additional_properties"),
        ),
        Gone((0, 11), _STRUCTURED),
    ),
    **dict.fromkeys(
        ("num_redundant_experts", "eplb_window_size", "eplb_step_interval", "eplb_log_balancedness"),
        Gone((0, 12), _EPLB),
    ),
}
"""Each argument that a release has dropped. 0.33 is what vLLM 0.32 announces itself."""

_HINDERING: Mapping[str, str] = {
    "disable_log_stats": "without its metrics Penstock can neither see a stall nor learn its load",
}


def mistakes(args: Mapping[str, object], vllm: Vllm) -> Iterator[str]:
    """What vLLM would refuse, or what is not for the owner to set."""
    yield from own_mistakes(args, OWN)
    for name in args:
        if name in OWN:
            continue
        if name in GONE and _is_refused(name, vllm):
            yield f"engine_args.{name}: {vllm.name} no longer has it: {GONE[name].instead}"
        elif _is_unknown(name, vllm) and not vllm.may_have_more:
            yield f"engine_args.{name}: {vllm.name} has no such argument{_hint(name, vllm)}"


def warnings(args: Mapping[str, object], vllm: Vllm) -> Iterator[str]:
    """What vLLM takes without effect, or may refuse; and what makes Penstock blind."""
    for name in args:
        gone = GONE.get(name)
        if gone is not None and vllm.version is None and not vllm.arguments:
            removed = ".".join(map(str, gone.removed))
            yield f"engine_args.{name}: vLLM {removed} and newer refuse it: {gone.instead}"
        elif gone is not None and gone.idle and vllm.version and gone.idle <= vllm.version < gone.removed:
            yield f"engine_args.{name} has no effect in {vllm.name}: {gone.instead}"
        elif gone is None and name not in OWN and _is_unknown(name, vllm) and vllm.may_have_more:
            yield f"engine_args.{name}: only a plugin of {vllm.name} can have this argument{_hint(name, vllm)}"
        elif name in _HINDERING and args[name] is True:
            yield f"engine_args.{name}: {_HINDERING[name]}"


def _is_refused(name: str, vllm: Vllm) -> bool:
    if vllm.arguments:
        return name not in vllm.arguments
    return vllm.version is not None and vllm.version >= GONE[name].removed


def _is_unknown(name: str, vllm: Vllm) -> bool:
    return bool(vllm.arguments) and name not in vllm.arguments


def _hint(name: str, vllm: Vllm) -> str:
    positive = name.removeprefix("no_")
    if positive != name and positive in vllm.arguments:
        return f"; set {positive} = false"
    return nearest(name, vllm.arguments)

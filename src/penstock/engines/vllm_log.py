"""What the lines of vLLM's log mean: stages of loading, and causes of its end.

The lines were seen on 0.32, or read in its source where they need a GPU.
"""

from __future__ import annotations

from penstock.engines.causes import HUB_CAUSES, Causes

# Of 0.32's log, in the order in which they come; a phrase may name its pattern's groups.
STAGES: Causes = (
    (r"Time spent downloading weights|[Dd]ownloading .*safetensors", "downloading"),
    (r"Resolved architecture: ", "starting its engine"),
    (r"Initializing a V1 LLM engine", "starting its workers"),
    (r"Starting to load model ", "loading the model"),
    (r"checkpoint shards: +(\d+)% Completed", r"loading weights, \1 %"),
    (r"Prefetching checkpoint files: (\d+)%", r"reading weights, \1 %"),
    (r"Loading weights took ", "weights are loaded"),
    (r"Starting torch\.compile|Dynamo bytecode transform|[Cc]ompile and warming up", "compiling"),
    (r"Warming up model", "warming up"),
    (r"KV cache size: ", "warming up"),
    (r"Capturing CUDA graphs[^%]*?(\d+)%", r"capturing CUDA graphs, \1 %"),
    (r"init engine \(profile", "starting its server"),
)

CAUSES: Causes = (
    (
        r"larger than the available kv cache memory",
        "its longest request does not fit into the KV cache; lower engine_args.max_model_len, "
        "or raise gpu_memory_utilization",
    ),
    (
        r"no available memory for the cache blocks",
        "the weights leave no memory for the KV cache; raise engine_args.gpu_memory_utilization, "
        "split the model over more GPUs, or quantize it",
    ),
    (
        r"free memory on device .* less than desired",
        "less GPU memory is free than it shall use; end what else uses the GPU (nvidia-smi shows it), "
        "or lower engine_args.gpu_memory_utilization",
    ),
    (
        r"is greater than the derived max_model_len",
        "engine_args.max_model_len is longer than the model can; lower it, or leave it out",
    ),
    (
        r"must be divisible by tensor parallel size|is not divisible by (tp|tensor)",
        "engine_args.tensor_parallel_size does not divide the model's attention heads; set one that does",
    ),
    (
        r"unknown quantization method|cannot find the config file for|quantization method specified in the model config"
        r"|is not supported for the current gpu|minimum capability",
        "this model or this GPU can't be run with that quantization; set engine_args.quantization to the one that "
        "the model's files have, or leave it out",
    ),
    (
        r"bfloat16 is only supported on gpus",
        "this GPU can't compute in bfloat16; set engine_args.dtype to 'half'",
    ),
    (
        r"model architectures? .* (are|is) not supported|was supported in vllm until|failed to be inspected",
        "this vLLM does not know the model's architecture; update vLLM, or choose another engine",
    ),
    (
        r"vllm_port '.*' (appears to be a uri|must be a valid integer)",
        "the variable VLLM_PORT is not a port; unset it (in Kubernetes: rename the service `vllm`, "
        "or set enableServiceLinks: false)",
    ),
    (
        r"opentelemetry is not available",
        "it can't send spans: `pip install opentelemetry-exporter-otlp` beside it, or set traces.engines to false",
    ),
    (
        r"overflowerror: cannot fit 'int' into an index-sized integer",
        "a file of its weights is no safetensors file; `penstock pull` it again",
    ),
    *HUB_CAUSES,
)

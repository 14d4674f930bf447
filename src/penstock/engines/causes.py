"""Why engines on PyTorch and Hugging Face end: patterns of their last lines, in lower case, and what to change.

Each engine's own causes come before these, and these before those of every program (`supervisor/exits`).
"""

from __future__ import annotations

Causes = tuple[tuple[str, str], ...]

GPU_CAUSES: Causes = (
    (
        r"cuda out of memory|outofmemoryerror|cuda_error_out_of_memory|hip out of memory",
        "the GPU has too little free memory; lower the context or the batch, split the model over more GPUs, "
        "or see with nvidia-smi what else uses it",
    ),
    (
        r"nccl.{0,200}(timeout|timed out)|watchdog caught collective operation timeout",
        "the GPUs waited for each other in vain (NCCL): one of them hung or its process died; "
        "look in dmesg for an Xid, or set engine_args.disable_custom_all_reduce",
    ),
    (
        r"nccl error|ncclsystemerror|ncclinternalerror|ncclunhandledcudaerror|ncclremoteerror",
        "the GPUs could not talk to each other (NCCL); start it once with NCCL_DEBUG=INFO, "
        "and look for too small a /dev/shm",
    ),
    (
        r"no cuda-capable device|found no nvidia driver|cuda driver version is insufficient|no cuda gpus are available",
        "it finds no GPU that it can use; check nvidia-smi, the driver's version and CUDA_VISIBLE_DEVICES",
    ),
    (
        r"no kernel image is available|cuda capability sm_\d+ is not compatible",
        "its build has no code for this GPU; install a build for this GPU's compute capability",
    ),
    (
        r"cuda error|cublas_status_|cudnn_status_|device-side assert|illegal memory access|cuda_error_",
        "the GPU reported an error (CUDA); look in dmesg for an Xid, and start it once with CUDA_LAUNCH_BLOCKING=1",
    ),
)

HUB_CAUSES: Causes = (
    (
        r"gatedrepoerror|gated repo|access to model .* is restricted|awaiting a review from the repo authors",
        "the model is gated: agree to its terms on its page of the Hub, and set HF_TOKEN to a token of that account",
    ),
    (
        r"401 client error|invalid user token|invalid username or password",
        "the Hub does not accept the token; set HF_TOKEN to a valid one",
    ),
    (
        r"repositorynotfounderror|repository not found|is not a local folder and is not a valid model identifier",
        "the Hub has no such model, or it is private; check models.N.source, and set HF_TOKEN for a private one",
    ),
    (
        r"localentrynotfounderror|offlinemodeisenabled|cannot find an appropriate cached snapshot"
        r"|couldn't connect to .{0,80} to load",
        "the model is not on this disk and the Hub was not asked or did not answer; `penstock pull` it first, "
        "or check the network and HF_HUB_OFFLINE",
    ),
    (
        r"hfvalidationerror|repo id must be in the form",
        "models.N.source is neither a folder that exists nor a name of the Hub; check its spelling",
    ),
    (
        r"safetensorerror|error while deserializing header|metadataincompletebuffer|headertoolarge|invalidheader"
        r"|file is corrupt|unexpected eof, expected",
        "a file of its weights is damaged or not whole; `penstock pull` it again",
    ),
    (
        r"is not a valid json file|jsondecodeerror",
        "a file of its configuration is not JSON: it is damaged, or models.N.source names a file of weights; "
        "name the model's folder",
    ),
    (
        r"cannot find any model weights|no file named .{0,120}(safetensors|pytorch_model)",
        "the model's folder has no weights; finish the download",
    ),
    (
        r"does not recognize this architecture|unrecognized configuration class",
        "it does not know the model's architecture; update the engine, or choose another",
    ),
    (
        r"trust_remote_code",
        "the model brings code of its own; set engine_args.trust_remote_code = true if you trust it",
    ),
)

OPTION_CAUSES: Causes = (
    (
        r"unrecognized arguments|no such option|unexpected extra argument",
        "it does not know one of engine_args; its log names it",
    ),
    (
        r"error: argument --|invalid value for|expected one argument|invalid choice",
        "one of engine_args has a value that it does not take; its log names it",
    ),
)

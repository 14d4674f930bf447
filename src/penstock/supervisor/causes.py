"""What ends any program that serves a model, by what it says last: patterns, in lower case, and what to change.

In order: what is particular comes before what it leads to.
"""

from __future__ import annotations

PORT_TAKEN = "its port was taken by another process; it is started again on another one"
FOR_MEMORY = (
    "lower engine_args' context, batch or KV memory, or the replicas, or give the machine more memory"
)

CAUSES: tuple[tuple[str, str], ...] = (
    (r"address already in use|couldn't bind|errno 98\b|eaddrinuse", PORT_TAKEN),
    (
        r"gated repo|access to model .* is restricted|401 client error|403 client error",
        "the model needs a Hugging Face token that may read it: accept its terms on its page, and set HF_TOKEN",
    ),
    (
        r"repository not found|404 client error|is not a local folder and is not a valid model identifier",
        "there is no such model on the Hub: look at the spelling of models.N.source, or set HF_TOKEN if it is private",
    ),
    (
        r"bus error|sigbus|exit ?code[:= ]*-7\b|(?:no space left|cannot allocate|unable to|failed|error).*"
        r"(?:/dev/shm|shared memory|shm_open)",
        "shared memory is too small: make /dev/shm larger (docker: --shm-size 8g or --ipc host)",
    ),
    (
        r"no space left on device|disk quota exceeded|errno 28\b",
        "the disk is full: make room, or set HF_HOME to a disk that has some",
    ),
    (
        r"cuda out of memory|outofmemoryerror|cuda error: out of memory|hip out of memory"
        r"|no available memory for the cache blocks|free memory on device .* is less than desired",
        "the GPU has too little free memory: lower gpu_memory_utilization, max_model_len or max_num_seqs, "
        "or take a smaller or quantized model; `penstock plan` reckons what fits",
    ),
    (
        r"nccl.*(?:timed? ?out|timeout)|watchdog caught collective operation timeout",
        "its GPUs stopped to talk to each other (NCCL timeout): one of them hangs, or the network between them is "
        "wrong; see `nvidia-smi`, and set NCCL_DEBUG=INFO for more",
    ),
    (
        r"nccl (?:error|warn)|ncclunhandled|ncclsystemerror|ncclinternalerror|ncclinvalidusage|ncclremoteerror",
        "its GPUs could not talk to each other (NCCL): set NCCL_DEBUG=INFO for more, NCCL_P2P_DISABLE=1 where they "
        "can't reach each other directly; /dev/shm may be too small",
    ),
    (
        r"no kernel image is available|compute capability .* (?:required|not supported)|unsupported gpu",
        "this GPU is too old or too new for how the engine was built: install a build for it",
    ),
    (
        r"cuda driver version is insufficient|driver on your system is too old|cuda-capable device\(s\) is/are busy"
        r"|no cuda-capable device|no cuda gpus are available|failed to infer device type",
        "it finds no GPU that it can use: look at `nvidia-smi`, the driver's version, and models.N.gpus",
    ),
    (
        r"cuda error|cudaerror|device-side assert|illegal memory access|uncorrectable ecc",
        "a fault on the GPU (CUDA error): look at `dmesg` for Xid messages and at `nvidia-smi`; if it comes again, "
        "reset the GPU or update driver and engine",
    ),
    (
        r"unknown quantization method|quantization method .* is not|unsupported quantization"
        r"|quantization.*not supported|does not match the quantization",
        "the engine can't run this quantization here: leave `quantization` out, or take another variant of the model",
    ),
    (
        r"model architectures? .*(?:not supported|failed to be inspected)|unknown model architecture"
        r"|does not recognize this architecture|unsupported model type",
        "the engine does not know this kind of model: update the engine, or take another one",
    ),
    (
        r"not within the file bounds|corrupted or incomplete|incomplete metadata|safetensorerror"
        r"|invalidheaderdeserialization|headertoolarge|unexpected end of file|checksum",
        "the model file is damaged or incomplete: remove it and fetch it again",
    ),
    (
        r"invalid magic",
        "the model file is not a GGUF file: the engine llamacpp takes no other; vllm takes safetensors",
    ),
    (
        r"cannot allocate memory|bad_alloc|\bmemoryerror\b|defaultcpuallocator: can't allocate|errno 12\b",
        f"the machine has too little free memory: {FOR_MEMORY}",
    ),
    (
        r"exit ?code[:= ]*-9\b|signal 9\b|died .*sigkill",
        f"one of its processes was killed, probably by the kernel for memory: {FOR_MEMORY}",
    ),
    (
        r"illegal instruction|exit ?code[:= ]*-4\b|sigill",
        "this processor lacks instructions that the engine was built for: install a build for it",
    ),
    (
        r"too many open files|errno 24\b",
        "too many open files: raise the limit (ulimit -n, or systemd's LimitNOFILE)",
    ),
    (
        r"no module named '?penstock",
        "Penstock is not installed for this Python: install it, or start it from its own environment",
    ),
    (
        r"modulenotfounderror|importerror|cannot open shared object file|undefined symbol",
        "its installation is broken, a part of it can't be loaded: install it anew in an environment of its own",
    ),
    (
        r"connection ?error|name or service not known|temporary failure in name resolution|max retries exceeded"
        r"|localentrynotfounderror|offline ?mode",
        "the model is not on this machine and could not be fetched: look at the network, HF_ENDPOINT and "
        "HF_HUB_OFFLINE, or fetch it before",
    ),
    (
        r"unrecognized arguments?|no such option|invalid choice|error: argument ",
        "it does not take one of its options: look at models.N.engine_args",
    ),
    (r"permission denied|errno 13\b", "it may not read or write a file: look at its owner and mode"),
    (r"no such file or directory|filenotfounderror", "a file is missing: look at models.N.source"),
    (
        r"proc\b.* died unexpectedly|enginedeaderror|a child process terminated abruptly|brokenprocesspool",
        f"one of its processes was killed or fell without a word; if that was for memory, {FOR_MEMORY}",
    ),
)

SIGNALS: dict[str, str] = {
    "SIGTERM": "somebody else has asked it to end",
    "SIGINT": "somebody else has interrupted it",
    "SIGILL": "this processor lacks instructions that the engine was built for: install a build for it",
    "SIGBUS": "shared memory is too small (make /dev/shm larger), or a file that it had mapped was cut",
    "SIGSEGV": "a fault in its native code: update the engine; its log may say more",
    "SIGABRT": "it gave up by itself: its log says why",
    "SIGSYS": "it made a system call that is not allowed here: look at the sandbox (seccomp, SystemCallFilter)",
    "SIGXFSZ": "a file grew beyond the limit for files (ulimit -f)",
}

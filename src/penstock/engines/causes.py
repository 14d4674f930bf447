"""Why engines on Hugging Face models end, beside what holds for every program (`supervisor/causes`), which comes after.

Patterns of a line of their log, in lower case, and what to change.
"""

from __future__ import annotations

Causes = tuple[tuple[str, str], ...]

HUB_CAUSES: Causes = (
    (
        r"localentrynotfounderror|offlinemodeisenabled|cannot find an appropriate cached snapshot"
        r"|couldn't connect to .{0,80} to load",
        "the model is not on this disk, and the Hub was not asked or did not answer: `penstock pull` it first, "
        "or check the network and HF_HUB_OFFLINE",
    ),
    (
        r"hfvalidationerror|repo id must be in the form",
        "models.N.source is neither a folder that exists nor a name of the Hub: check its spelling; "
        "where it names a file, name the model's folder",
    ),
    (
        r"safetensorerror|error while deserializing header|metadataincompletebuffer|file is corrupt",
        "a file of its weights is damaged or incomplete: `penstock pull` it again",
    ),
    (
        r"is not a valid json file|jsondecodeerror",
        "a file of its configuration is not JSON: it is damaged, or models.N.source names a file of weights; "
        "name the model's folder",
    ),
    (
        r"cannot find any model weights|no file named .{0,120}(safetensors|pytorch_model)",
        "the model's folder holds no weights: finish the download",
    ),
    (
        r"trust_remote_code.{0,40}(true|to allow)|requires you to execute",
        "the model brings code of its own: set engine_args.trust_remote_code = true if you trust it",
    ),
    (
        r"unrecognized arguments|no such option|unexpected extra argument",
        "it does not know one of engine_args, which its log names: leave it out",
    ),
    (
        r"error: argument --|invalid value for '|expected one argument",
        "one of engine_args has a value that it does not take: see what its log says of it",
    ),
)

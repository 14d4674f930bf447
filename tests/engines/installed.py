"""Python environments that hold an engine, as far as anything but the engine itself looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ARGUMENTS = """
class EngineArgs:
    @staticmethod
    def add_cli_args(parser):
        group = parser.add_argument_group(title="ModelConfig")
        group.add_argument("--max-model-len", **model_kwargs["max_model_len"])
        group.add_argument("--enforce-eager", **model_kwargs["enforce_eager"])
        group.add_argument("--tensor-parallel-size", "-tp", **parallel_kwargs["tensor_parallel_size"])
        group.add_argument("--enable-prefix-caching", **cache_kwargs["enable_prefix_caching"])
        group.add_argument("--disable-log-stats", action="store_true", help="...")
        group.add_argument("--disable-cascade-attn", action=argparse.BooleanOptionalAction)
        group.add_argument("--max-num-seqs", **scheduler_kwargs["max_num_seqs"])
        parser.add_argument("--enable-log-requests", action=argparse.BooleanOptionalAction)
        {more}
"""
FRONTEND = """
@config
class FrontendArgs:
    lora_modules: list[LoRAModulePath] | None = None
    chat_template: str | None = None
"""
REGISTRY = """
_TEXT_GENERATION_MODELS = {
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "QWenLMHeadModel": (
        "qwen", "QWenLMHeadModel"),
}
_PREVIOUSLY_SUPPORTED_MODELS = {
    "MPTForCausalLM": "0.28.0",
}
"""


def environment(folder: Path, commands: tuple[str, ...], packages: Mapping[str, str]) -> Path:
    """An environment with these commands, and packages of these versions."""
    for command in (*commands, "python3"):
        path = folder / "bin" / command
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    for name, version in packages.items():
        info = site(folder) / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def site(folder: Path) -> Path:
    """Where its packages are."""
    return folder / "lib" / "python3.11" / "site-packages"


def put(folder: Path, path: str, text: str) -> None:
    """A source file of a package."""
    file = site(folder) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def vllm(folder: Path, version: str = "0.32.0", *, more: str = "", package: str = "vllm") -> Path:
    """A vLLM; `more` are statements that declare further arguments."""
    environment(folder, ("vllm",), {package: version})
    drains = 'parser.add_argument("--shutdown-timeout", type=int, default=0)' if version >= "0.18" else ""
    put(folder, "vllm/engine/arg_utils.py", ARGUMENTS.replace("{more}", f"{drains}\n        {more}"))
    put(folder, "vllm/entrypoints/openai/cli_args.py", FRONTEND)
    put(folder, "vllm/model_executor/models/registry.py", REGISTRY)
    put(folder, "transformers/models/gemma9/__init__.py", "")
    return folder

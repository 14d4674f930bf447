"""GPUs: what the planner must know of each.

Sources. Memory is `memory.total` as `nvidia-smi` shows it, in MiB, with ECC as the card is delivered, from public logs
of these cards; it is a little less than the name says where ECC or the driver takes some. Bandwidth is from NVIDIA's
data sheet or product page of the card, named in its row (`ds`: "<card> datasheet"; `wp`: the architecture's white
paper). Compute capability: https://developer.nvidia.com/cuda-gpus, times 10.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from penstock.planner.shapes import PlanError

MIB = 2**20
GIB = 2**30
COUNT_MAX = 1024

BF16_CAPABILITY = 80
FP8_CAPABILITY = 89


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU.

    Args:
        name: as people write it.
        memory_mib: as the driver reports it, in MiB.
        bandwidth_gb_s: of its memory, in GB/s; 0 where it is not known.
        capability: CUDA compute capability, times 10; 0 where it is not known.
        source: of the bandwidth.
        used_mib: what others have of it already, in MiB.
        ram: whether it is no GPU, but the memory of a CPU.
    """

    name: str
    memory_mib: int
    bandwidth_gb_s: int
    capability: int
    source: str = ""
    used_mib: int = 0
    ram: bool = False

    @property
    def memory_bytes(self) -> int:
        """What the driver reports, in bytes."""
        return self.memory_mib * MIB

    @property
    def free_bytes(self) -> int:
        """What nobody has of it yet, in bytes."""
        return (self.memory_mib - self.used_mib) * MIB


GPUS: tuple[Gpu, ...] = (
    Gpu("P100 16GB", 16384, 732, 60, "Tesla P100 PCIe ds"),
    Gpu("V100 16GB", 16384, 900, 70, "V100 ds"),
    Gpu("V100 32GB", 32768, 900, 70, "V100 ds"),
    Gpu("T4", 15360, 320, 75, "T4 ds"),
    Gpu("RTX 2080 Ti", 11264, 616, 75, "Turing wp"),
    Gpu("Quadro RTX 6000", 24576, 672, 75, "Quadro RTX 6000 ds"),
    Gpu("Quadro RTX 8000", 49152, 672, 75, "Quadro RTX 8000 ds"),
    Gpu("A10", 23028, 600, 86, "A10 ds"),
    Gpu("A10G", 23028, 600, 86, "A10G ds (AWS g5)"),
    Gpu("A16", 15356, 200, 86, "A16 ds, one of its four GPUs"),
    Gpu("A30", 24576, 933, 80, "A30 ds"),
    Gpu("A40", 46068, 696, 86, "A40 ds"),
    Gpu("A100 40GB", 40960, 1555, 80, "A100 ds"),
    Gpu("A100 80GB", 81920, 2039, 80, "A100 ds, SXM; PCIe 1935"),
    Gpu("A2", 15356, 200, 86, "A2 ds"),
    Gpu("RTX A4000", 16376, 448, 86, "RTX A4000 ds"),
    Gpu("RTX A5000", 24564, 768, 86, "RTX A5000 ds"),
    Gpu("RTX A6000", 49140, 768, 86, "RTX A6000 ds"),
    Gpu("RTX 3060", 12288, 360, 86, "GeForce RTX 3060 page, 12 GB"),
    Gpu("RTX 3080", 10240, 760, 86, "Ampere GA102 wp, 10 GB"),
    Gpu("RTX 3090", 24576, 936, 86, "Ampere GA102 wp"),
    Gpu("RTX 3090 Ti", 24564, 1008, 86, "GeForce RTX 3090 Ti page"),
    Gpu("RTX 4060 Ti 16GB", 16380, 288, 89, "GeForce RTX 4060 Ti page"),
    Gpu("RTX 4070", 12282, 504, 89, "GeForce RTX 4070 page"),
    Gpu("RTX 4070 Ti Super", 16376, 672, 89, "GeForce RTX 4070 Ti Super page"),
    Gpu("RTX 4080", 16376, 717, 89, "Ada wp"),
    Gpu("RTX 4090", 24564, 1008, 89, "Ada wp"),
    Gpu("RTX 4000 Ada", 20475, 360, 89, "RTX 4000 Ada ds"),
    Gpu("RTX 6000 Ada", 49140, 960, 89, "RTX 6000 Ada ds"),
    Gpu("L4", 23034, 300, 89, "L4 ds"),
    Gpu("L20", 46068, 864, 89, "L20 ds"),
    Gpu("L40", 46068, 864, 89, "L40 ds"),
    Gpu("L40S", 46068, 864, 89, "L40S ds"),
    Gpu("H100 80GB", 81559, 3352, 90, "H100 ds, SXM; PCIe 2000"),
    Gpu("H100 NVL", 95830, 3938, 90, "H100 NVL ds"),
    Gpu("H20", 97871, 4000, 90, "H20 ds"),
    Gpu("GH200 96GB", 97871, 4000, 90, "GH200 ds"),
    Gpu("H200", 143771, 4800, 90, "H200 ds"),
    Gpu("B200", 183359, 8000, 100, "Blackwell ds"),
    Gpu("GB200", 189471, 8000, 100, "GB200 NVL72 page"),
    Gpu("B300", 275040, 8000, 103, "Blackwell Ultra ds"),
    Gpu("RTX 5070 Ti", 16303, 896, 120, "RTX Blackwell wp"),
    Gpu("RTX 5080", 16303, 960, 120, "RTX Blackwell wp"),
    Gpu("RTX 5090", 32607, 1792, 120, "RTX Blackwell wp"),
    Gpu("RTX PRO 6000", 97887, 1792, 120, "RTX PRO 6000 Blackwell ds"),
)

SHORT_NAMES = {
    "p100": "P100 16GB", "v100": "V100 16GB", "a100": "A100 80GB", "h100": "H100 80GB", "gh200": "GH200 96GB",
    "a4000": "RTX A4000", "a5000": "RTX A5000", "a6000": "RTX A6000", "4060ti": "RTX 4060 Ti 16GB",
    "gh200480gb": "GH200 96GB", "rtx8000": "Quadro RTX 8000", "rtx6000ada": "RTX 6000 Ada", "pro6000": "RTX PRO 6000",
}  # fmt: skip
"""What people say for short, in the form of `_key`; of two sizes the one that clouds rent most."""

_NOISE = (
    "nvidia",
    "geforce",
    "tesla",
    "generation",
    "blackwell",
    "workstationedition",
    "serveredition",
    "maxq",
)
_VARIANT = re.compile(r"(sxm\d?(?:ac)?|pcie|hbm3e?)(?=\d*gb|$)")
_COUNTED = re.compile(r"(?:(\d{1,6})\s*[x*]\s*)?(.+)", re.IGNORECASE)


def _key(name: str) -> str:
    """A name without what people leave out: case, spaces, brand."""
    word = re.sub(r"[^a-z0-9]", "", name.lower())
    for noise in _NOISE:
        word = word.replace(noise, "")
    return _VARIANT.sub("", word)


def _table() -> dict[str, Gpu]:
    named = {_key(gpu.name): gpu for gpu in GPUS}
    without = {key.removeprefix("rtx"): gpu for key, gpu in named.items()}
    short = {key: named[_key(full)] for key, full in SHORT_NAMES.items()}
    return {**without, **short, **named}


_BY_KEY = _table()


def known_gpu(name: str) -> Gpu | None:
    """The GPU of that name, as people or the driver write it (`NVIDIA A100-SXM4-80GB`); None when it is not known."""
    return _BY_KEY.get(_key(name))


def main_memory(total_bytes: int, used_bytes: int = 0) -> Gpu:
    """The memory of a CPU, which llama.cpp computes in."""
    name = f"{total_bytes / GIB:.1f} GiB of RAM"
    return Gpu(name, total_bytes // MIB, 0, 0, used_mib=-(-used_bytes // MIB), ram=True)


def parse_gpus(text: str) -> tuple[int, Gpu]:
    """How many of which GPU.

    Args:
        text: a name with or without a number before it: `2xA6000`, `8 x H100`, `RTX 4090`.

    Raises:
        PlanError: the GPU is not known here, or the number is none of 1 to `COUNT_MAX`.
    """
    match = _COUNTED.fullmatch(text.strip())
    count, name = (int(match[1] or 1), match[2]) if match else (1, text)
    gpu = known_gpu(name)
    if gpu is None:
        near = get_close_matches(_key(name)[:60], _BY_KEY, n=1)
        said = f"; the nearest known is {_BY_KEY[near[0]].name}" if near else ""
        names = ", ".join(one.name for one in GPUS)
        raise PlanError(f"--gpu: {name[:60]!r} is not known here{said}", code="usage", hint=f"known: {names}")
    if not 1 <= count <= COUNT_MAX:
        raise PlanError(f"--gpu: expected 1 to {COUNT_MAX} GPUs, found {count}", code="usage")
    return count, gpu

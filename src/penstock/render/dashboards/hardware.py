"""What wears out on a GPU, and how it is set: rows of the page of the GPUs."""

from __future__ import annotations

from penstock.render.dashboards.page import CELSIUS, COUNT, Panel, Query, Row

GPU = "{{instance}} GPU {{gpu}}"


def each(metric: str, more: str = "") -> str:
    """A metric of each GPU, told apart by further labels."""
    return f"max by (instance, gpu{more}) ({metric})"


HARDWARE = (
    Row(
        "Wear",
        (
            Panel(
                "Degrees left",
                "Until the chip is slowed down: as the driver tells it, or else from the temperature at which it is.",
                CELSIUS,
                (
                    Query(each("penstock_gpu_temperature_margin_celsius"), GPU),
                    Query(
                        f"({each('penstock_gpu_temperature_slowdown_celsius')} "
                        f"- {each('penstock_gpu_temperature_celsius')}) "
                        f"unless {each('penstock_gpu_temperature_margin_celsius')}",
                        GPU,
                    ),
                ),
                limits=(5, 2),
            ),
            Panel(
                "Memory errors in its life",
                "Uncorrected ones that come again ask for another GPU.",
                COUNT,
                (Query(each("penstock_gpu_ecc_errors_lifetime_total", ", kind"), f"{GPU} {{{{kind}}}}"),),
            ),
            Panel(
                "Retired pages",
                "Of GPUs before Ampere, which have no spare rows. A pending one needs a reset.",
                COUNT,
                (
                    Query(each("penstock_gpu_retired_pages", ", cause"), f"{GPU} {{{{cause}}}}"),
                    Query(each("penstock_gpu_page_retirement_pending"), f"{GPU} pending"),
                ),
            ),
            Panel(
                "Newest XID",
                "The driver's number of its last error since the exporter began; 0 for none.",
                COUNT,
                (Query(each("penstock_gpu_xid_last_code"), GPU),),
                "stat",
            ),
            Panel(
                "PCIe errors",
                "In an hour, by kind. A few corrected ones are normal; growth asks for another seat or riser.",
                COUNT,
                (
                    Query(
                        "sum by (instance, gpu, kind) (increase(penstock_gpu_pcie_errors_total[1h]))",
                        f"{GPU} {{{{kind}}}}",
                    ),
                ),
            ),
            Panel(
                "PCIe link",
                "Lanes and generation, beside the most that card and slot can do. Idle links slow down; under load a link "
                "below its most makes loading slow.",
                COUNT,
                (
                    Query(each("penstock_gpu_pcie_link_width", ", of"), f"{GPU} lanes {{{{of}}}}"),
                    Query(each("penstock_gpu_pcie_link_generation", ", of"), f"{GPU} generation {{{{of}}}}"),
                ),
            ),
        ),
    ),
    Row(
        "How they are set",
        (
            Panel(
                "Drivers",
                "Versions of the driver, and of the newest CUDA that it knows.",
                COUNT,
                (
                    Query(
                        "max by (instance, driver, cuda) (penstock_gpu_driver_info)",
                        "{{instance}} driver {{driver}}, CUDA {{cuda}}",
                    ),
                ),
                "stat",
            ),
            Panel(
                "Switches",
                "1 where it is on: ECC checks memory, persistence keeps the driver loaded, MIG cuts a GPU into instances.",
                COUNT,
                (
                    Query(each("penstock_gpu_ecc_enabled"), f"{GPU} ECC"),
                    Query(each("penstock_gpu_persistence_mode"), f"{GPU} persistence"),
                    Query(each("penstock_gpu_mig_enabled"), f"{GPU} MIG"),
                ),
                "states",
            ),
            Panel(
                "Performance state",
                "0 is the highest. An idle GPU rests in a higher one.",
                COUNT,
                (Query(each("penstock_gpu_performance_state"), GPU),),
            ),
            Panel(
                "NVLinks",
                "By their state. Links that are off between GPUs of one replica make each step slow.",
                COUNT,
                (Query(each("penstock_gpu_nvlinks", ", state"), f"{GPU} {{{{state}}}}"),),
            ),
            Panel(
                "Not told",
                "Values that a GPU does not tell, by why: what is not supported is normal, what is forbidden needs rights.",
                COUNT,
                (Query(each("penstock_gpu_fields_absent", ", reason"), f"{GPU} {{{{reason}}}}"),),
            ),
        ),
    ),
)

"""What is done before a load: look at the server, find out how it counts tokens and where its metrics are."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from penstock.bench.beside import figures
from penstock.bench.beside.pages import Source, SourceKind
from penstock.bench.load.endpoint import Endpoint
from penstock.bench.load.reaching import hosts_of, models_of
from penstock.bench.report.folder import make_folder
from penstock.bench.settings import Settings, SettingsError
from penstock.bench.watch import Watch
from penstock.bench.workloads.calibrate import calibrate
from penstock.bench.workloads.calibration import Calibration
from penstock.core.errors import PenstockError
from penstock.engines.client import Dialling, EngineClient

# Somebody waits for the load to begin.
METRICS_LOOK_S = 2.0
_MODELS_SHOWN_MAX = 8


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of a server before the load; good for every load on it.

    Args:
        model: the name that is asked for.
        calibration: how texts of known length are made for it.
        sources: pages of metrics to read.
    """

    model: str
    calibration: Calibration
    sources: tuple[Source, ...]


async def prepare(settings: Settings, watch: Watch) -> Prepared:
    """Looks at the server.

    Raises:
        EndpointError: it can't be reached, or is none.
        CalibrationError: it refuses what the run would send.
        SettingsError: it has several models, and none was named.
    """
    endpoint = settings.endpoint
    watch.phase(f"looking at {endpoint.url}")
    model = _model(settings, await models_of(endpoint))
    client = EngineClient()
    client.reach(endpoint.address, Dialling(hosts=await hosts_of(endpoint), tls=endpoint.tls_context()))
    try:
        watch.phase("finding out how the server counts tokens")
        calibration = await calibrate(
            client,
            endpoint,
            model,
            counting=settings.counting,
            tokenizer=settings.tokenizer,
            sessions=any(kind.in_sessions for kind in settings.mix.kinds),
        )
        sources = [*_named(settings), *(await _found(settings, client))]
    finally:
        client.close()
    return Prepared(model, calibration, tuple(sources))


async def prepare_several(settings: Settings, watch: Watch) -> Prepared:
    """Makes the folder of several runs on one server, where one is wanted, and looks at the server.

    Raises:
        PenstockError: as `make_folder` and `prepare`; no folder is left then.
    """
    if settings.output is not None:
        make_folder(settings.output)
    try:
        return await prepare(settings, watch)
    except BaseException:
        if settings.output is not None:
            settings.output.rmdir()
        raise


def _model(settings: Settings, served: tuple[str, ...]) -> str:
    if settings.model:
        return settings.model
    if len(served) == 1:
        return served[0]
    if not served:
        raise SettingsError(
            f"model: {settings.endpoint.url}/v1/models does not say which it serves",
            hint="is the base URL right? If it is, name a model with --model",
        )
    names = ", ".join(served[:_MODELS_SHOWN_MAX]) + (", ..." if len(served) > _MODELS_SHOWN_MAX else "")
    raise SettingsError(
        f"model: {settings.endpoint.url} serves {len(served)}: {names}", hint="name one with --model"
    )


def _named(settings: Settings) -> list[Source]:
    pages = (
        *((url, SourceKind.ENGINE) for url in settings.metrics),
        *((url, SourceKind.GATEWAY) for url in settings.gateway_metrics),
        *((url, SourceKind.GPU) for url in settings.gpu_metrics),
    )
    keys = settings.metrics_keys
    sources = [
        Source(
            url if "://" in url else f"http://{url}",
            kind,
            ((b"authorization", f"Bearer {keys[url]}".encode()),) if keys.get(url) else (),
        )
        for url, kind in pages
    ]
    for source in sources:
        _ = source.address  # a mistake in it is told before the load
    return sources


async def _found(settings: Settings, client: EngineClient) -> list[Source]:
    """The endpoint's own page, where it is an engine that has one."""
    endpoint = settings.endpoint
    if not settings.find_metrics or endpoint.tls:
        return []
    source = Source(Endpoint(endpoint.host, endpoint.port).url)
    with suppress(PenstockError):  # it was not asked for, so it need not be there
        reply = await client.fetch(
            source.address, b"GET", source.target, headers=[], timeout_s=METRICS_LOOK_S
        )
        if reply.status == 200 and figures.read(reply.body, figures.ENGINE):
            return [source]
    return []

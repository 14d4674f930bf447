"""A run as an annotation in Grafana, over what the dashboards show of its time."""

from __future__ import annotations

import msgspec

from penstock.bench.load.endpoint import Endpoint, EndpointError
from penstock.bench.load.reaching import hosts_of
from penstock.bench.report.facts import Report
from penstock.core.errors import PenstockError
from penstock.engines.client import Dialling, EngineClient

TAG = "penstock-loadtest"
TOKEN_VARIABLE = "GRAFANA_TOKEN"  # noqa: S105 - a name
PATH = "/api/annotations"
WITHIN_S = 10.0


def annotation(report: Report) -> bytes:
    """What Grafana is told of a run, https://grafana.com/docs/grafana/latest/developers/http_api/annotations/."""
    meta, summary = report.meta, report.summary
    verdict = summary.verdict.says if summary.verdict is not None else ""
    begun_ms = round(meta.started_at * 1000)
    told = {
        "time": begun_ms,
        "timeEnd": begun_ms + round(meta.wall_s * 1000),
        "tags": [TAG, meta.model],
        "text": f"{meta.command} {meta.name or meta.load}: {verdict}",
    }
    return msgspec.json.encode(told)


async def annotate(url: str, token: str, report: Report) -> None:
    """Tells the Grafana at `url` of a run.

    Args:
        token: of a service account that may write annotations; empty where nobody has to say who they are.

    Raises:
        EndpointError: it can't be reached, or refuses.
    """
    grafana = Endpoint.parse(url, path=PATH, api_key=token)
    client = EngineClient()
    client.reach(grafana.address, Dialling(hosts=await hosts_of(grafana), tls=grafana.tls_context()))
    try:
        reply = await client.fetch(
            grafana.address,
            b"POST",
            grafana.target(),
            headers=grafana.header_lines(),
            body=annotation(report),
            timeout_s=WITHIN_S,
        )
    except PenstockError as error:
        raise EndpointError(f"annotate: {grafana.url}: {error.message}", hint="is Grafana up?") from None
    finally:
        client.close()
    if reply.status != 200:
        hint = (
            f"set {TOKEN_VARIABLE} to a token that may write annotations"
            if reply.status in (401, 403)
            else ""
        )
        said = reply.body[:200].decode(errors="replace")
        raise EndpointError(f"annotate: {grafana.url} says {reply.status}: {said}", hint=hint)

"""/metrics: the process's counters in Prometheus' text format. Needs the token like any other route."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest


def metrics_routes(registry: CollectorRegistry) -> APIRouter:
    """The route that prints `registry`."""
    router = APIRouter(tags=["operation"])

    @router.get(
        "/metrics",
        summary="Counters of the platform for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"example": "# TYPE platform_records_total counter\n"}}}},
    )
    async def metrics() -> Response:
        """Text format 0.0.4. Prometheus sends the token with `authorization: {credentials_file: ...}`."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router

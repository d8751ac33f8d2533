"""`python -m gvm_operator`: serves GVMTrainingJobs until it is told to stop. Settings: GVM_OPERATOR_* variables."""

import argparse
import logging
import sys

import kopf
from prometheus_client import start_http_server

from gvm_operator import cluster, handlers
from gvm_operator.controller import Controller
from gvm_operator.metrics import Metrics
from gvm_operator.progress import ProgressReader
from gvm_operator.reconcile import Operator
from gvm_operator.settings import Settings, describe_settings, read_settings
from gvm_operator.tokens import read_key


def main() -> None:
    """Read the settings and serve; exit 2 where they cannot be used."""
    argparse.ArgumentParser(
        prog="gvm-operator",
        description="Serve GVMTrainingJobs until told to stop, in the cluster of the pod or of KUBECONFIG.",
        epilog=f"Environment variables:\n\n{describe_settings()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        settings = read_settings()
        key = read_key(settings.token_key_file)
        api = cluster.connect()
    except ValueError as error:
        print(f"gvm-operator: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    _log(settings)
    metrics = Metrics()
    start_http_server(settings.metrics_port, registry=metrics.registry)
    controller = Controller(
        cluster.Cluster(api, namespaces=settings.watch_namespaces, on_request=metrics.requested),
        operator=Operator(
            images=settings.images, neighbours=settings.neighbours, closed_namespace=settings.closed_namespace
        ),
        token_key=key,
        progress=ProgressReader(settings.allocator_url),
        metrics=metrics,
        num_workers=settings.workers,
        resync_seconds=settings.resync_seconds,
        progress_seconds=settings.progress_seconds,
    )
    kopf.run(
        registry=handlers.registry(controller),
        settings=handlers.settings(),
        standalone=True,
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
        liveness_endpoint=f"http://0.0.0.0:{settings.health_port}/healthz",
    )


def _log(settings: Settings) -> None:
    kopf.configure(
        log_format=kopf.LogFormat.JSON if settings.log_format == "json" else kopf.LogFormat.PLAIN,
        debug=settings.log_level == "DEBUG",
    )
    logging.getLogger().setLevel(settings.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every look at a job's progress
    # They would log every event of every object, and every probe.
    for name in ("kopf.objects", "kopf.activities.probe", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()

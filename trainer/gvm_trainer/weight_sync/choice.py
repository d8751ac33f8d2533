"""Which way of syncing weights a job asked for."""

import tempfile
from pathlib import Path

from gvm_api.env import LearnerEnv
from gvm_api.spec import WeightSyncSpec
from gvm_trainer.weight_sync.contract import WeightSync
from gvm_trainer.weight_sync.nccl import NcclWeightSync
from gvm_trainer.weight_sync.staged import FilesystemWeightSync, HttpWeightSync


def weight_sync(spec: WeightSyncSpec, settings: LearnerEnv) -> WeightSync:
    """The backend that `spec` names, ready to push.

    Raises:
        WeightSyncError: nccl without a CUDA device.
    """
    if spec.backend == "nccl":
        return NcclWeightSync(
            settings.rollout_urls,
            master_address=settings.weights_host,
            master_port=settings.weights_port,
            timeout_seconds=spec.timeout_seconds,
        )
    if spec.backend == "filesystem":
        return FilesystemWeightSync(
            settings.rollout_urls,
            directory=settings.run_dir / "weights",
            timeout_seconds=spec.timeout_seconds,
        )
    return HttpWeightSync(
        settings.rollout_urls,
        # Not the run directory, which may be a slow shared volume; shards live for one iteration.
        directory=Path(tempfile.mkdtemp(prefix="gvm-weights-")),
        advertise_host=settings.weights_host,
        port=settings.weights_port,
        bind_host="127.0.0.1" if settings.weights_host == "127.0.0.1" else "",
        timeout_seconds=spec.timeout_seconds,
    )

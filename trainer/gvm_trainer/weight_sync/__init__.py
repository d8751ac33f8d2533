"""Brings the learner's weights into the resident rollout servers, in place, and checks that they arrived.

Knows neither how weights are trained nor how samples are drawn.
"""

from gvm_trainer.weight_sync.contract import SyncResult, WeightSync, WeightSyncError
from gvm_trainer.weight_sync.nccl import NcclWeightSync
from gvm_trainer.weight_sync.parity import ParityResult, parity
from gvm_trainer.weight_sync.staged import FilesystemWeightSync, HttpWeightSync

__all__ = [
    "FilesystemWeightSync",
    "HttpWeightSync",
    "NcclWeightSync",
    "ParityResult",
    "SyncResult",
    "WeightSync",
    "WeightSyncError",
    "parity",
]

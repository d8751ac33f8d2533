"""The GVMTrainingJob spec: one model that is CRD schema, validation and trainer configuration at once."""

from gvm_api.spec.job import API_VERSION, KIND, GVMTrainingJob, JobSpec, Metadata
from gvm_api.spec.roles import (
    AllocatorSpec,
    LearnerSpec,
    PodSpec,
    ResourcesSpec,
    RolloutSpec,
    RunPolicySpec,
    StorageSpec,
    WeightSyncSpec,
)
from gvm_api.spec.training import (
    AlgorithmName,
    AlgorithmSpec,
    AllocationSpec,
    DatasetSpec,
    DataSpec,
    EvaluationDataset,
    EvaluationSpec,
    GradNormSpec,
    ModelSpec,
    PriorSpec,
    RewardSpec,
)

__all__ = [
    "API_VERSION",
    "KIND",
    "AlgorithmName",
    "AlgorithmSpec",
    "AllocationSpec",
    "AllocatorSpec",
    "DataSpec",
    "DatasetSpec",
    "EvaluationDataset",
    "EvaluationSpec",
    "GVMTrainingJob",
    "GradNormSpec",
    "JobSpec",
    "LearnerSpec",
    "Metadata",
    "ModelSpec",
    "PodSpec",
    "PriorSpec",
    "ResourcesSpec",
    "RewardSpec",
    "RolloutSpec",
    "RunPolicySpec",
    "StorageSpec",
    "WeightSyncSpec",
]

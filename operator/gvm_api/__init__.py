"""The contract between every process: the GVMTrainingJob, its status, names and wire formats.

Depends on pydantic alone. It does not know torch, vLLM, HTTP clients or Kubernetes.
"""

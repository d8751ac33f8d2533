"""How to repeat a run: the job file, the command, the version. Keeps secrets out of what is passed around. Pure."""

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from gvm_api.spec import GVMTrainingJob

_SECRET = re.compile(r"(token|password|secret|credential|api[-_]?key)s?$", re.IGNORECASE)
_HIDDEN = "(hidden)"


def job_yaml(job: GVMTrainingJob, *, with_defaults: bool) -> str:
    """The job as YAML, the values of environment variables and of keys named like a secret hidden.

    Labels and annotations are left out: kubectl keeps a copy of the whole job in one of them.
    """
    content = job.model_dump(
        mode="json", by_alias=True, exclude={"status"}, exclude_none=True, exclude_unset=not with_defaults
    )
    content["metadata"] = {"name": job.metadata.name, "namespace": job.metadata.namespace}
    return yaml.safe_dump(_without_secrets(content), sort_keys=False, allow_unicode=True)


def operator_version() -> str:
    """Version of the installed gvm-operator."""
    try:
        return version("gvm-operator")
    except PackageNotFoundError:
        return "of an unknown version"


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _hidden(key, item) for key, item in value.items()}


def _hidden(key: str, value: Any) -> Any:
    if key == "env" and isinstance(value, list):
        return [{**entry, "value": _HIDDEN} if "value" in entry else entry for entry in value]
    if isinstance(value, str) and _SECRET.search(key):
        return _HIDDEN
    return _without_secrets(value)

"""The operator's settings, from environment variables GVM_OPERATOR_*; a wrong one is refused by its name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from gvm_api.base import Contract
from gvm_api.load import one_line
from gvm_operator.network import Neighbours
from gvm_operator.site import Images

PREFIX = "GVM_OPERATOR_"


class Settings(Contract):
    """How one operator runs. The variable of a field is GVM_OPERATOR_ and the field's name in capitals."""

    watch_namespaces: tuple[str, ...] = ()
    """Namespaces to serve, comma-separated; empty serves all, which needs cluster-wide rights."""

    namespace: str = ""
    """Where the operator itself runs, empty outside of a cluster: jobs' NetworkPolicies let it in from there."""

    serve_own_namespace: bool = False
    """Run jobs in that namespace, too, though their pods can use the operator's service account and token key."""

    rollout_image: str = Images().rollout
    """Default image of vLLM servers."""

    allocator_image: str = Images().allocator
    """Default image of allocators."""

    learner_image: str = Images().learner
    """Default image of learners."""

    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """imagePullPolicy of jobs' pods that name none; empty leaves it to Kubernetes."""

    image_pull_secrets: tuple[str, ...] = ()
    """Secrets, in the jobs' namespaces, for a private registry; comma-separated."""

    token_key_file: Path = Path("/var/run/gvm-operator/token-key")
    """File with the key from which jobs' bearer tokens are derived."""

    allocator_url: str = "http://{name}-allocator.{namespace}.svc:8000"
    """URL of a job's allocator; other than the default where the operator runs outside of the cluster."""

    network_policies: bool = True
    """Make NetworkPolicies for jobs."""

    monitoring_namespace: str = ""
    """Namespace whose pods may scrape jobs' metrics; empty lets none in."""

    resync_seconds: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Time between full listings, which find what a broken watch missed."""

    progress_seconds: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Time between two looks at a running job's progress."""

    workers: int = Field(default=8, ge=1, le=64)
    """Jobs that are worked on at a time."""

    health_port: int = Field(default=8080, ge=1, le=65535)
    """Port of GET /healthz, which fails when the last full listing is too old."""

    metrics_port: int = Field(default=9090, ge=1, le=65535)
    """Port of GET /metrics."""

    log_format: Literal["plain", "json"] = "plain"
    """plain for people, json for log collectors."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least level that is logged."""

    @field_validator("allocator_url")
    @classmethod
    def _is_a_pattern(cls, url: str) -> str:
        try:
            example = urlsplit(url.format(name="name", namespace="namespace"))
            is_url = example.scheme in ("http", "https") and bool(example.hostname) and example.port != 0
        except (LookupError, ValueError, AttributeError) as error:
            raise ValueError(f"{url!r} is no pattern ({error}); write {{name}} and {{namespace}} only") from error
        if not is_url:
            raise ValueError(f"{url!r} is no URL; write http://, a host, and a port where it is not 80")
        return url

    @property
    def neighbours(self) -> Neighbours | None:
        """Whom jobs' NetworkPolicies let in; None where there are to be no policies."""
        if not self.network_policies:
            return None
        return Neighbours(operator=self.namespace, monitoring=self.monitoring_namespace)

    @property
    def closed_namespace(self) -> str:
        """Where no job is run; empty for none."""
        return "" if self.serve_own_namespace else self.namespace

    @property
    def images(self) -> Images:
        """Images of the jobs' pods."""
        return Images(
            rollout=self.rollout_image,
            allocator=self.allocator_image,
            learner=self.learner_image,
            pull_policy=self.image_pull_policy,
            pull_secrets=self.image_pull_secrets,
        )


def describe_settings() -> str:
    """Every variable with its meaning and default, for --help."""
    return "\n".join(
        f"  {PREFIX}{name.upper()}\n      {field.description} Default: {field.get_default() or 'none'}"
        for name, field in Settings.model_fields.items()
    )


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings that the environment gives; an empty variable counts as none.

    Raises:
        ValueError: a variable's value is refused, or one of our prefix is unknown; the message names it.
    """
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and value
    }
    lists = ("watch_namespaces", "image_pull_secrets")
    values = {
        name: tuple(part.strip() for part in value.split(",") if part.strip()) if name in lists else value
        for name, value in given.items()
    }
    try:
        return Settings.model_validate(values, by_name=True, by_alias=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = PREFIX + str(first["loc"][0]).upper()
        known = "" if first["type"] != "extra_forbidden" else f"; known are {', '.join(sorted(Settings.model_fields))}"
        raise ValueError(one_line(f"{name}: {first.get('input')!r} is refused: {first['msg']}{known}", 1000)) from error

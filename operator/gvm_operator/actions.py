"""What the operator does to the cluster: values that `reconcile` returns and `cluster` carries out."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Create:
    """Create a child; one that exists is left as it is."""

    manifest: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """Change some fields of a child (a JSON merge patch)."""

    kind: str
    name: str
    change: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Delete:
    """Delete a child and what it owns in turn. `uid` guards against one of the same name that came after."""

    kind: str
    name: str
    uid: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeleteJob:
    """Delete the GVMTrainingJob itself: its time to live is over."""

    uid: str


Action = Create | Patch | Delete | DeleteJob


def describe(action: Action) -> str:
    """An action's object as people write it, e.g. Deployment arithmetic-rollout."""
    match action:
        case Create(manifest=manifest):
            return f"{manifest['kind']} {manifest['metadata']['name']}"
        case Patch(kind=kind, name=name) | Delete(kind=kind, name=name):
            return f"{kind} {name}"
        case DeleteJob():
            return "the job"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An action that the API server did not allow."""

    action: Action
    message: str

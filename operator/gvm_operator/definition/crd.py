"""The CustomResourceDefinition, generated from the models: `python -m gvm_operator.definition.crd`.

Owns names, columns and what stands around the schema; the rules in it are those of `rules`.
"""

from gvm_api import yaml_format
from gvm_api.spec import API_VERSION, KIND, JobSpec
from gvm_api.status import JobStatus
from gvm_operator.definition.rules import rules
from gvm_operator.definition.structural import Schema, structural, without_defaults

GROUP, _, VERSION = API_VERSION.partition("/")
PLURAL = "gvmtrainingjobs"
COLUMNS = (
    ("Phase", "string", ".status.phase", 0),
    ("Iteration", "integer", ".status.iteration", 0),
    ("Accuracy", "number", ".status.accuracy", 0),
    ("Accept", "number", ".status.acceptRate", 0),
    ("Rollout", "string", ".status.rollout.summary", 0),
    ("Learner", "string", ".status.learner.summary", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Restarts", "integer", ".status.restarts", 1),
    ("Message", "string", ".status.message", 1),
)
"""Name, type, path and priority; those of priority 1 are shown by `kubectl get -o wide`."""


def definition() -> Schema:
    """The CustomResourceDefinition of GVMTrainingJob."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path} | ({"priority": priority} if priority else {})
            for name, kind, path, priority in COLUMNS
        ],
        "schema": {"openAPIV3Schema": schema()},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["gvmjob", "gvmjobs"],
                "categories": ["all"],
            },
            "versions": [version],
        },
    }


def schema() -> Schema:
    """The structural schema of a job, rules included."""
    status = structural(JobStatus.model_json_schema())
    job: Schema = {
        "type": "object",
        "description": "One training run: vLLM servers, an allocator and a torchrun learner.",
        "required": ["spec"],
        "properties": {"spec": structural(JobSpec.model_json_schema()), "status": without_defaults(status)},
    }
    for path, found in rules().items():
        at(job, path)["x-kubernetes-validations"] = [rule._asdict() for rule in found]
    return job


def at(schema: Schema, path: str) -> Schema:
    """The part of a schema that a path such as spec.evaluation.datasets[] leads to."""
    for name in path.split(".") if path else ():
        schema = schema["properties"][name.removesuffix("[]")]
        if name.endswith("[]"):
            schema = schema["items"]
    return schema


if __name__ == "__main__":
    print(yaml_format.dump(definition()), end="")

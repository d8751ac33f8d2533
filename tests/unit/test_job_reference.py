"""docs/job-reference.md: fresh, complete, and tables that a reader of Markdown sees as tables."""

import re
from pathlib import Path
from typing import Any

from gvm_operator.definition.reference import text

FILE = Path(__file__).parents[2] / "docs/job-reference.md"
ROLES = ("rollout", "learner", "allocator")


def tables() -> dict[str, list[list[str]]]:
    """Rows of cells by the section that they stand in, heads and rules left out."""
    found: dict[str, list[list[str]]] = {}
    for section in text().split("\n## ")[1:]:
        rows = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in section.splitlines() if line.startswith("|")]
        found[section.splitlines()[0]] = rows[2:]
        assert len({len(row) for row in rows}) <= 1, "every row has the cells of its head"
    return found


def test_the_committed_page_is_what_make_generate_writes() -> None:
    assert FILE.read_text() == text(), "run `make generate`"


def test_every_field_stands_in_its_section_with_type_default_and_meaning(api_server: Any) -> None:
    found = {name: {row[0].strip("`"): row[1:] for row in rows} for name, rows in tables().items()}
    checked = 0
    for path, node in api_server.nodes():
        section, _, field = path.removeprefix("spec.").partition(".")
        if not path.startswith("spec.") or not field or field.endswith(("[]", ".*")):
            continue
        if re.search(r"(env|volumes|volumeMounts)\[\]|podTemplate\.", field):
            continue  # pieces of the Kubernetes API, which are documented there
        row = found[f"spec.{section}"].get(field) or found["Pods of every role"][field]
        assert section in ROLES or field in found[f"spec.{section}"]
        assert row[2] == " ".join(node["description"].split()).replace("|", "\\|"), path
        checked += 1
    assert checked > 120
    assert found["spec.model"]["path"][:2] == ["string", "**required**"]
    assert found["spec.model"]["revision"][:2] == ["string", "–"]
    assert found["spec.algorithm"]["clipLow"][:2] == ["number > 0 and ≤ 1", "`0.2`"]
    assert found["spec.allocation"]["prior"][:2] == ["object", "as below"]
    assert found["spec.storage"]["size"][:2] == ["quantity", "`100Gi`"]
    assert found["Pods of every role"]["resources.limits"][:2] == ["map to quantity", "`{}`"]
    assert found["spec.learner"]["zeroStage"][0] == "`0` or `1` or `2` or `3`"
    assert found["status"]["rollout.summary"] == ["string", "ready/desired, as kubectl prints it."]


def test_what_must_fit_and_what_may_change_are_listed() -> None:
    page = text()
    assert "- `spec.learner`: offload all needs zeroStage 3; set zeroStage: 3 or offload: optimizer\n" in page
    assert page.count("limits of GPUs are whole numbers") == 1, "what holds of every role is said once"
    assert page.endswith("- `spec.runPolicy.startupDeadlineSeconds`\n")
    assert "cannot change once" not in page

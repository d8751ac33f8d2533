"""YAML as Kubernetes reads it: JSON's types, keys that are strings and stand once, no dates.

PyYAML alone reads 1e-6 as text, 2024-01-01 as a date, and of two equal keys silently keeps the last.
"""

import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_JSON_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map")}
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Refuses keys that PyYAML would drop or change."""

    yaml_constructors = {  # noqa: RUF012 (as its base declares it)
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in _JSON_TAGS
    }
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in pairs if tag != _TAG + "timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, since the constructor sees a mapping only after merge keys (<<) were written into it.
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == _TAG + "merge":
                continue
            name = key.value if isinstance(key, yaml.ScalarNode) else key.id
            if key.tag != _TAG + "str":
                raise _error(f"key {name!r} is no string; write it in quotes", key)
            if name in seen:
                raise _error(f"key {name!r} stands twice; remove one", key)
            seen.add(name)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would take for a number, and writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (the interface)
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text of several lines as a block, so that a file within a file can be read."""
        return self.represent_scalar(_TAG + "str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)
_Loader.add_implicit_resolver(_TAG + "float", _EXPONENT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(_TAG + "float", _EXPONENT, list("-+.0123456789"))


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def load_all(text: str) -> list[Any]:
    """The documents of a text that are not empty.

    Raises:
        ValueError: the text is not YAML, or a key in it stands twice or is no string; names the line.
    """
    try:
        return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem}") from error
    except (yaml.YAMLError, LookupError, ValueError) as error:  # the last two: `!!int x`, or too many digits
        raise ValueError(f"is not YAML ({' '.join(str(error).split())})") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply; write a job file") from error


def dump(*documents: Any) -> str:
    """Write documents as YAML, keys in their order."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False)

"""Writes the dashboards: `python -m gvm_metrics.dashboards DIR`."""

import sys
from pathlib import Path

from gvm_metrics.dashboards import fleet, operator, training

BOARDS = {"training": training.board, "fleet": fleet.board, "operator": operator.board}


def files() -> dict[str, str]:
    """File name → content."""
    return {f"{name}.json": board().text() for name, board in BOARDS.items()}


def main(arguments: list[str]) -> int:
    """Write all files into a folder; each is replaced as a whole."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m gvm_metrics.dashboards DIR (an existing folder)", file=sys.stderr)
        return 2
    for name, text in files().items():
        path = Path(arguments[0]) / name
        temporary = path.with_suffix(".json.new")
        temporary.write_text(text)
        temporary.replace(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

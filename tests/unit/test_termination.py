"""A learner's last word: only for bad input, on one line, and the error goes on."""

from pathlib import Path

import pytest

from gvm_api import env
from gvm_trainer.termination import invalid_input_explained


def test_bad_input_is_written_down_on_one_line_and_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setenv(env.TERMINATION_LOG, str(log))
    with pytest.raises(ValueError, match="promptField"), invalid_input_explained():
        raise ValueError("spec.dataset.promptField: 'x' is no column;\n  name one of: prompt")
    assert log.read_text() == "InvalidInput: spec.dataset.promptField: 'x' is no column; name one of: prompt"


def test_other_errors_leave_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setenv(env.TERMINATION_LOG, str(log))
    with pytest.raises(RuntimeError), invalid_input_explained():
        raise RuntimeError("out of memory")
    assert not log.exists()

"""A process's last lines in one line: the exception's type and message survive, whatever else is cut."""

import pytest

from gvm_api.last_words import last_words

FRAMES = "".join(f'  File "/lib/python/module_{i}.py", line {i}, in call\n    return call(*args)\n' for i in range(30))
ERROR = "ValueError: spec.model.path: 'a' has no config"
TORCHRUN = f"""
============================================================
gvm_trainer FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  exitcode  : 1 (pid: 17)
  traceback : Traceback (most recent call last):
    File "/lib/errors.py", line 355, in wrapper
      return f(*args, **kwargs)
  {ERROR}

============================================================
"""


@pytest.mark.parametrize(
    "text",
    [
        f"loading\nTraceback (most recent call last):\n{FRAMES}{ERROR}\n",
        f"Traceback (most recent call last):\n{FRAMES}KeyError: 3\n\nThe above exception was the direct cause of the "
        f"following exception:\n\nTraceback (most recent call last):\n{FRAMES}{ERROR}",
        FRAMES[7:] + ERROR,
        "".join(f"(pid=7) ERROR {line}\n" for line in ["Traceback (most recent call last):", '  File "a.py"', ERROR]),
        TORCHRUN,
        ERROR,
    ],
    ids=["one", "chained", "cut in its midst", "a logger's", "torchrun's report", "alone"],
)
def test_of_a_traceback_the_exception_stays(text: str) -> None:
    assert last_words(text, 300) == ERROR


def test_a_message_of_several_lines_becomes_one() -> None:
    assert last_words(f"Traceback (most recent call last):\n{FRAMES}{ERROR}\n  name another\n", 300) == (
        f"{ERROR} name another"
    )


def test_a_long_message_keeps_its_beginning_and_a_log_its_end() -> None:
    assert last_words("Traceback (most recent call last):\n  File x\nOSError: full " + "x" * 500, 40) == (
        "OSError: full xxxxxxxxxxxxxxxxxxxxxxxxx…"
    )
    assert last_words("starting " + "x" * 500 + " killed", 20) == "…xxxxxxxxxxxx killed"


def test_what_is_no_traceback_stays() -> None:
    assert last_words("loading\n killed", 100) == "loading killed"
    assert last_words("", 100) == ""
    assert (
        last_words("Traceback (most recent call last):\n  File x", 100) == "Traceback (most recent call last): File x"
    )

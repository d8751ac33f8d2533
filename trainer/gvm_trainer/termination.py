"""The last word of a learner that cannot use its input: Kubernetes' termination message.

The operator and the local runner read it, and do not restart a gang that would fail the same way again.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gvm_api import env


@contextmanager
def invalid_input_explained() -> Iterator[None]:
    """Write down a ValueError or OSError of the code within (model, data and reward are read there), and raise it."""
    try:
        yield
    except (ValueError, OSError) as error:
        path = os.environ.get(env.TERMINATION_LOG)
        if path:
            Path(path).write_text(f"{env.INVALID_INPUT}{' '.join(str(error).split())}")
        raise

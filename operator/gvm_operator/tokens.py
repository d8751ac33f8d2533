"""Bearer tokens of jobs, derived from one key: the operator knows them without ever reading a Secret."""

import hashlib
import hmac
from pathlib import Path

_SHORTEST_KEY = 16


def read_key(path: Path) -> bytes:
    """The key in a file.

    Raises:
        ValueError: the file cannot be read, or holds too short a key.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(
            f"GVM_OPERATOR_TOKEN_KEY_FILE: {path} cannot be read ({error.strerror}); "
            "write a random string of 32 characters or more into it"
        ) from error
    if len(key) < _SHORTEST_KEY:
        raise ValueError(f"GVM_OPERATOR_TOKEN_KEY_FILE: {path} holds {len(key)} bytes; give it {_SHORTEST_KEY} or more")
    return key


def token(key: bytes, namespace: str, name: str) -> str:
    """The token of a job: HMAC-SHA256 of its name, in hexadecimal. A job made anew under the same name has the same."""
    return hmac.new(key, f"{namespace}/{name}".encode(), hashlib.sha256).hexdigest()

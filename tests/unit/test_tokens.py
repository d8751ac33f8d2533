"""Bearer tokens of jobs, and the key that they come from."""

from pathlib import Path

import pytest

from gvm_operator.tokens import read_key, token

KEY = b"0123456789abcdef"


def test_a_token_is_the_hmac_sha256_of_the_job_s_full_name() -> None:
    assert token(KEY, "ml", "a") == "695db59251abf5672195e3a40664107304f9fc1624629561909a7008d7d424ef"


def test_every_job_has_a_token_of_its_own_and_always_the_same() -> None:
    tokens = {token(KEY, "ml", "a"), token(KEY, "ml", "b"), token(KEY, "other", "a"), token(KEY * 2, "ml", "a")}
    assert len(tokens) == 4
    assert token(KEY, "ml", "a") in tokens


def test_the_key_is_the_file_s_content_without_the_space_around_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"  " + KEY + b"\n")
    assert read_key(path) == KEY


@pytest.mark.parametrize(("content", "length"), [(b"", 0), (b"\n \n", 0), (b"0123456789abcde\n", 15)])
def test_a_key_that_is_too_short_is_refused_without_being_shown(tmp_path: Path, content: bytes, length: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_key(path)
    assert str(caught.value) == f"GVM_OPERATOR_TOKEN_KEY_FILE: {path} holds {length} bytes; give it 16 or more"


def test_a_key_file_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=r"GVM_OPERATOR_TOKEN_KEY_FILE: .* cannot be read \(.*\); write a random"):
            read_key(path)

"""The environment of the learner: every variable is needed, and an absent one is named."""

from pathlib import Path

import pytest

from gvm_api import env

LEARNER = {
    env.JOB_FILE: "/gvm/job/job.yaml",
    env.RUN_DIR: "/gvm/run",
    env.ALLOCATOR_URL: "http://a:8000",
    env.ALLOCATOR_TOKEN: "s3cret",
    env.ROLLOUT_URLS: "http://r:1,http://r:2",
    env.WEIGHTS_HOST: "learner-0",
    env.WEIGHTS_PORT: "8001",
    env.HOST: "0.0.0.0",
    env.PORT: "8000",
    env.LEARNER_ID: "pod-uid",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in LEARNER.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_learner_reads_paths_addresses_and_port(environment: pytest.MonkeyPatch) -> None:
    settings = env.learner_env()
    assert settings.job_file == Path("/gvm/job/job.yaml")
    assert settings.rollout_urls == ("http://r:1", "http://r:2")
    assert settings.weights_port == 8001


@pytest.mark.parametrize("name", LEARNER)
def test_an_unset_or_empty_variable_is_named(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "")
    with pytest.raises(ValueError, match=f"{name} is not set; start this process with `gvm run` or the operator"):
        env.learner_env()
    environment.delenv(name)
    with pytest.raises(ValueError, match=f"{name} is not set"):
        env.learner_env()


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:80", "0", "65536", "-1", "8e3"])
def test_what_is_no_port_is_named(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv(env.WEIGHTS_PORT, value)
    with pytest.raises(ValueError, match=f"{env.WEIGHTS_PORT} is '{value}'; it takes a port's number, 1 to 65535"):
        env.learner_env()


def test_the_token_is_not_shown(environment: pytest.MonkeyPatch) -> None:
    assert "s3cret" not in repr(env.learner_env())

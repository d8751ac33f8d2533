# The operator's image and those of a job's three roles; docs/images.md says how to build them.
# In each: pinned requirements first, the code last, so that a change of the code makes a small layer.
ARG BASE_IMAGE=python:3.11-slim
# A base that brings torch or vLLM: set the REQUIREMENTS of what it brings to nothing.
ARG TRAINER_BASE=${BASE_IMAGE}
ARG ROLLOUT_BASE=${BASE_IMAGE}
ARG TORCH_REQUIREMENTS=requirements/torch.txt
ARG TRAINER_REQUIREMENTS=requirements/trainer.txt
ARG ROLLOUT_REQUIREMENTS=requirements/rollout.txt
ARG VERSION=0.1.0


FROM ${BASE_IMAGE} AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements/build.txt /source/requirements/
RUN python3 -m pip install --no-deps -r /source/requirements/build.txt
COPY pyproject.toml README.md LICENSE /source/
COPY operator /source/operator
COPY trainer /source/trainer
RUN python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheel /source


# HOME: the root file system may be read-only; caches (Hugging Face, Triton, torch, vLLM, matplotlib) are made under it.
# LOGNAME: torch names its caches after the user, and fails for one who is not in /etc/passwd.
# PYTHONDONTWRITEBYTECODE: pip compiles what it installs, and the rest could not be written.
FROM ${BASE_IMAGE} AS python
USER root
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp LOGNAME=gvm
RUN set -e; getent group 1000 || groupadd --gid 1000 gvm; \
    getent passwd 1000 || useradd --uid 1000 --gid 1000 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin gvm
WORKDIR /opt/gvm


FROM python AS operator
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements/operator.txt requirements/
RUN python3 -m pip install --no-deps -r requirements/operator.txt
COPY --from=wheel /wheel wheel
RUN python3 -m pip install --no-deps --no-index wheel/*.whl
ARG VERSION
LABEL org.opencontainers.image.title="gvm-operator" \
      org.opencontainers.image.description="Kubernetes operator for GVMTrainingJob" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
USER 1000:1000
ENTRYPOINT ["python", "-m", "gvm_operator"]


FROM python AS allocator
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements/allocator.txt requirements/
RUN python3 -m pip install --no-deps -r requirements/allocator.txt
COPY --from=wheel /wheel wheel
RUN python3 -m pip install --no-deps --no-index wheel/*.whl
ARG VERSION
LABEL org.opencontainers.image.title="gvm-allocator" \
      org.opencontainers.image.description="Shares a sampling budget among the prompts of a GVMTrainingJob" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
USER 1000:1000
ENTRYPOINT ["python", "-m", "gvm_allocator"]


# From here to `pip install` the next stage and rollout say the same: with one base they share these layers.
FROM ${TRAINER_BASE} AS torch
USER root
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp LOGNAME=gvm
RUN set -e; getent group 1000 || groupadd --gid 1000 gvm; \
    getent passwd 1000 || useradd --uid 1000 --gid 1000 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin gvm; \
    command -v python || ln -s "$(command -v python3)" /usr/local/bin/python
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /opt/gvm
ARG TORCH_REQUIREMENTS
ARG TORCH_INDEX
COPY requirements/torch.sh requirements/torch-cpu.txt requirements/torch-cuda.txt requirements/
RUN [ -z "${TORCH_REQUIREMENTS}" ] || sh requirements/torch.sh python3 "${TORCH_INDEX}"
COPY ${TORCH_REQUIREMENTS:-requirements/none.txt} requirements/torch.txt
RUN python3 -m pip install --no-deps -r requirements/torch.txt


# DeepSpeed comes as source. On a CPU it loads an operator of its own, which would otherwise be compiled anew in every
# pod that starts. On a GPU it does not, so over a base that brings torch nothing is compiled here.
FROM torch AS deepspeed
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG TORCH_REQUIREMENTS
RUN [ -z "${TORCH_REQUIREMENTS}" ] || command -v c++ || \
    { apt-get update && apt-get install --yes --no-install-recommends g++; }
ARG TRAINER_REQUIREMENTS
COPY ${TRAINER_REQUIREMENTS} requirements/trainer.txt
RUN grep '^deepspeed==' requirements/trainer.txt > requirements/deepspeed.txt && \
    DS_BUILD_SHM_COMM=${TORCH_REQUIREMENTS:+1} python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheel \
      -r requirements/deepspeed.txt


FROM torch AS trainer
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG TRAINER_REQUIREMENTS
COPY ${TRAINER_REQUIREMENTS} requirements/trainer.txt
COPY --from=deepspeed /wheel wheel/deepspeed
RUN python3 -m pip install --no-deps --find-links wheel/deepspeed -r requirements/trainer.txt
COPY examples examples
COPY --from=wheel /wheel wheel
RUN python3 -m pip install --no-deps --no-index wheel/*.whl
ARG VERSION
LABEL org.opencontainers.image.title="gvm-trainer" \
      org.opencontainers.image.description="Learner of a GVMTrainingJob: torchrun and DeepSpeed" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
USER 1000:1000
ENTRYPOINT []


FROM ${ROLLOUT_BASE} AS rollout
USER root
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp LOGNAME=gvm
RUN set -e; getent group 1000 || groupadd --gid 1000 gvm; \
    getent passwd 1000 || useradd --uid 1000 --gid 1000 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin gvm; \
    command -v python || ln -s "$(command -v python3)" /usr/local/bin/python
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /opt/gvm
ARG TORCH_REQUIREMENTS
ARG TORCH_INDEX
COPY requirements/torch.sh requirements/torch-cpu.txt requirements/torch-cuda.txt requirements/
RUN [ -z "${TORCH_REQUIREMENTS}" ] || sh requirements/torch.sh python3 "${TORCH_INDEX}"
COPY ${TORCH_REQUIREMENTS:-requirements/none.txt} requirements/torch.txt
RUN python3 -m pip install --no-deps -r requirements/torch.txt
# Only vLLM's build for CPUs links libnuma.
ARG ROLLOUT_REQUIREMENTS
RUN [ -z "${ROLLOUT_REQUIREMENTS}" ] || \
    { apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*; }
COPY ${ROLLOUT_REQUIREMENTS:-requirements/none.txt} requirements/rollout.txt
RUN python3 -m pip install --no-deps -r requirements/rollout.txt
# Even with --enforce-eager vLLM compiles the function that ranks logprobs, and dies where there is no C++ compiler.
ENV TORCH_COMPILE_DISABLE=${ROLLOUT_REQUIREMENTS:+1}
COPY examples examples
COPY --from=wheel /wheel wheel
RUN python3 -m pip install --no-deps --no-index wheel/*.whl
ARG VERSION
LABEL org.opencontainers.image.title="gvm-rollout" \
      org.opencontainers.image.description="vLLM server of a GVMTrainingJob, with its plugin for weight transfer" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
USER 1000:1000
ENTRYPOINT []

# syntax=docker/dockerfile:1
# Two images from one file: `service` (API, migrations, command line; no torch) and `worker`.
# The first stages fetch and build wheels; the images install them offline, without compilers, and run as 10001.

# The distribution is pinned too: libc is part of the environment that a replay must meet again.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS source
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY pyproject.toml constraints.txt README.md ./
COPY app app
COPY migrations migrations
COPY models_store models_store
COPY worker worker

FROM source AS service-wheels
RUN pip wheel --constraint constraints.txt --wheel-dir /wheels '.[postgres,celery]'

# By itself, so that a change of our code neither fetches nor ships torch again.
FROM ${PYTHON_IMAGE} AS torch-wheels
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Empty: the default build, which brings CUDA. For the CPU build: the index that PyTorch's "Get started" prints.
ARG TORCH_INDEX=
WORKDIR /source
COPY constraints.txt .
RUN pip wheel --constraint constraints.txt --wheel-dir /wheels ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch

FROM source AS worker-wheels
RUN --mount=type=bind,from=torch-wheels,source=/wheels,target=/torch-wheels \
    pip wheel --constraint constraints.txt --find-links /torch-wheels --wheel-dir /wheels \
    '.[postgres,worker,celery]'

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    EXPUNGE_HOME=/var/lib/expunge \
    EXPUNGE_STORE_URL=/var/lib/expunge-store
# Its home is /tmp: what libraries keep beside themselves is gone when the container is. New volumes take over
# the owner and mode of the folders that they are mounted on.
RUN groupadd --gid 10001 expunge \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin expunge \
    && install --directory --owner expunge --group expunge --mode 0700 \
        /var/lib/expunge /var/lib/expunge-store

FROM base AS service
RUN --mount=type=bind,from=service-wheels,source=/wheels,target=/wheels \
    pip install --no-index --no-deps /wheels/*.whl
USER 10001:10001
WORKDIR /var/lib/expunge
EXPOSE 8000
# 0.0.0.0 is the container's own network; what the outside sees is said where the port is published.
CMD ["expunge", "serve", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
RUN --mount=type=bind,from=torch-wheels,source=/wheels,target=/wheels \
    pip install --no-index --no-deps /wheels/*.whl
RUN --mount=type=bind,from=worker-wheels,source=/wheels,target=/wheels \
    pip install --no-index --no-deps /wheels/*.whl
USER 10001:10001
WORKDIR /var/lib/expunge
CMD ["expunge-worker", "work"]

# Two images: `api` (without torch) and `worker` (torch, transformers, TRL, PEFT).
#
#   docker build --target api .
#   docker build --target worker .                       CUDA, included in PyPI's torch
#   docker build --target worker --build-arg \
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cu126 .        CUDA 12.6, for drivers < 580
#   docker build --target worker --build-arg \
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .          CPU, much smaller

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/plaudit
ENV PATH=/opt/plaudit/bin:$PATH
WORKDIR /srv/plaudit
# The dependencies are installed with empty packages in place of the code, so that a change of the
# code does not invalidate this layer.
COPY pyproject.toml constraints.txt ./
COPY client/pyproject.toml client/
RUN mkdir -p app worker client/src/plaudit \
    && touch README.md app/__init__.py worker/__init__.py \
        client/README.md client/src/plaudit/__init__.py

FROM build AS build-api
RUN pip install -c constraints.txt -e ./client -e .

FROM build AS build-worker
ARG PIP_EXTRA_INDEX_URL
RUN pip install -c constraints.txt -e ./client -e '.[worker,quantization]'

# The code runs from its source tree, next to its migrations.
FROM python:3.11-slim-bookworm AS runtime
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/plaudit plaudit \
    && install -d -o 10001 -g 10001 \
        /var/lib/plaudit /var/lib/plaudit/models /var/lib/plaudit/tmp
ENV PATH=/opt/plaudit/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/plaudit \
    TMPDIR=/var/lib/plaudit/tmp \
    PLAUDIT_DATA_DIR=/var/lib/plaudit
WORKDIR /srv/plaudit
COPY pyproject.toml README.md alembic.ini ./
COPY alembic alembic
COPY app app
COPY client client
COPY worker worker
VOLUME /var/lib/plaudit
USER 10001:10001
ENTRYPOINT ["plaudit"]

FROM runtime AS api
COPY --from=build-api /opt/plaudit /opt/plaudit
ENV PLAUDIT_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["serve"]

FROM runtime AS worker
COPY --from=build-worker /opt/plaudit /opt/plaudit
# CUDA, and NVML for the list of GPUs
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Healthy while the worker updates its row in the database.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s \
    CMD ["python", "-m", "worker.supervisor.healthcheck"]
CMD ["worker"]

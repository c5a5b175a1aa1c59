# The worker as an image: `docker build --tag user-task-worker .`
# Two stages, so that no compiler, no build backend and no tests are in what runs. Everything installed is pinned by hash.

FROM python:3.13-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

RUN python -m venv --without-pip /opt/user-task-worker
COPY requirements-runtime.lock requirements-build.lock ./
RUN pip --python /opt/user-task-worker/bin/python install --require-hashes -r requirements-runtime.lock \
 && pip install --require-hashes -r requirements-build.lock

# Last, since it changes most often: the layers above are kept as long as the locks are.
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY worker worker
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/user-task-worker/bin/python install --no-deps --no-index dist/*.whl


FROM python:3.13-slim

LABEL org.opencontainers.image.title="user-task-worker" \
      org.opencontainers.image.description="Completes user tasks from Kafka commands, exactly once." \
      org.opencontainers.image.licenses="Apache-2.0"

# A fixed number, since Kubernetes' runAsNonRoot reads numbers only. /data is for a SQLite store, if there is one.
RUN groupadd --gid 10001 worker \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin worker \
 && install --directory --owner=10001 --group=10001 /data
COPY --from=build /opt/user-task-worker /opt/user-task-worker

# The root file system may be read-only: nothing writes bytecode. The endpoints are for others than this container.
ENV PATH=/opt/user-task-worker/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONFAULTHANDLER=1 \
    USERTASK_HTTP_HOST=::
WORKDIR /data
USER 10001:10001
EXPOSE 8080

# "Would a restart help?": an outage of Kafka or of the store never makes it unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["user-task-worker", "health", "--live"]

ENTRYPOINT ["user-task-worker"]
CMD ["run"]

# syntax=docker/dockerfile:1
# The receiver's image. A service adds its plugins on top (examples/plugin/Dockerfile), or sets TASKS_MODULES.
# `make lock-image` pins its base by digest; `make release` refuses a tag alone.

FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Dependencies first: this layer is rebuilt only when the locks change. Nothing enters without its hash.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt
# pip stays in the environment of the build: what is served has no installer.
RUN python -m venv --without-pip /opt/receiver \
 && /opt/build/bin/pip --python /opt/receiver/bin/python install --require-hashes --only-binary :all: -r requirements/runtime.txt

# Then the project itself: a wheel, as everybody else installs it.
COPY pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY receiver receiver
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
 && /opt/build/bin/pip --python /opt/receiver/bin/python install --no-deps --no-index /tmp/wheel/*.whl \
 && /opt/receiver/bin/python -m compileall -q -j 0 /opt/receiver/lib

FROM python:3.13-slim-bookworm
# The environment is written by root and only read by the service: it runs on a read-only file system too.
COPY --from=build /opt/receiver /opt/receiver
ENV PATH=/opt/receiver/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN rm -r /usr/local/bin/pip* /usr/local/lib/python3.*/site-packages/pip*
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin receiver
WORKDIR /srv
USER 10001:10001
EXPOSE 8080
# Exec form: the server is process 1, so that Cloud Run's SIGTERM reaches it. It listens on $PORT (8080).
ENTRYPOINT ["receiver"]
CMD ["serve"]

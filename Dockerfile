# One image for every process; the command chooses which (docker-compose.yml).

FROM python:3.11-slim-bookworm AS builder
# What is optional: --build-arg EXTRAS=s3
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements*.txt ./
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install -r requirements.txt \
    && pip install -r requirements-build.txt
COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /venv/bin/python install --no-deps dist/*.whl \
    && if [ -n "$EXTRAS" ]; then pip --python /venv/bin/python install -c requirements-test.txt "$(ls dist/*.whl)[$EXTRAS]"; fi

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /data disco \
    && mkdir /data /spool && chown disco:disco /data /spool
COPY --from=builder /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DISCO_DATA_DIR=/data
WORKDIR /data
USER disco
CMD ["python", "-m", "gateway"]

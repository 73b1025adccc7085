# Segnode in a container: docs/docker.md. Research use; not a medical device.
#
#   BASE_IMAGE  Debian or Ubuntu with Python 3.11 or newer, or with such a python3 in its packages
#   TORCH       cuda: the ordinary build, runs with and without a GPU (about 8 GB)
#               cpu: the CPU build or none; no CUDA package can come in
#   PIP_ARGS    more words for pip: --find-links, --index-url, --extra-index-url, …
#   UID         who runs the node; owns the data folder
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS build
ARG TORCH=cuda
ARG PIP_ARGS=""
RUN python3 -c 'import ensurepip, venv' 2>/dev/null || { apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       python3 python3-venv; }
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/segnode
RUN python3 -m venv venv
COPY pyproject.toml constraints.txt ./
# torch first and by its build's name: where only the CUDA build is offered, "+cpu" stops pip at
# once, and nothing that comes later replaces what is there.
RUN torch=$(sed -n 's/^torch==//p' constraints.txt) \
    && case "$TORCH" in \
        cpu) want="torch==$torch+cpu" ;; \
        cuda) want="torch==$torch,!=$torch+cpu" ;; \
        *) echo "TORCH is cpu or cuda, not $TORCH" >&2; exit 1 ;; \
    esac \
    && venv/bin/pip install $PIP_ARGS --no-deps "$want"
# The dependencies without our own code: a change of it leaves this layer as it is.
# With them what makes a CPU fast, or what watches a GPU.
RUN extra=$(test "$TORCH" = cpu && echo openvino || echo cuda) \
    && venv/bin/python -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*project["dependencies"], *project["optional-dependencies"][sys.argv[1]], sep="\n")' "$extra" > requirements.txt \
    && venv/bin/pip install $PIP_ARGS -c constraints.txt -r requirements.txt
COPY README.md LICENSE NOTICE ./
COPY node node
COPY config config
# Editable: the demo finds its model and its series in config/, beside node/.
RUN venv/bin/pip install $PIP_ARGS --no-deps -e .

FROM ${BASE_IMAGE}
ARG UID=1000
RUN python3 -c 'import sqlite3' 2>/dev/null || { apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*; }
# --non-unique: some base images have a user of that number already.
RUN useradd --non-unique --uid "$UID" --user-group --home-dir /var/lib/segnode --no-create-home \
        --shell /usr/sbin/nologin segnode \
    && install -d -o segnode -g segnode -m 750 /var/lib/segnode
COPY --from=build /opt/segnode /opt/segnode
COPY config/docker/node.toml /etc/segnode/node.toml
# SEGNODE_CONFIG: `docker exec NAME segnode jobs list` finds the same file without -c.
ENV PATH=/opt/segnode/venv/bin:$PATH \
    SEGNODE_CONFIG=/etc/segnode/node.toml \
    LANG=C.UTF-8 PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="Segnode" \
      org.opencontainers.image.description="DICOM node that segments series with nnU-Net v2 and stores DICOM SEG back. Research use only; not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0"
USER ${UID}:${UID}
WORKDIR /var/lib/segnode
VOLUME /var/lib/segnode
EXPOSE 11112
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "/opt/segnode/config/docker/healthcheck.py", "/etc/segnode/node.toml"]
ENTRYPOINT ["segnode"]
CMD ["serve", "-c", "/etc/segnode/node.toml"]

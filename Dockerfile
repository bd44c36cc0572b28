# vlarl with LIBERO, for CPU or NVIDIA GPUs. See docs/hpc.md.
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t vlarl:cpu .
#   docker build --build-arg VARIANT=cuda --build-arg REVISION=$(git rev-parse HEAD) -t vlarl:cuda .
# A base given by digest (debian@sha256:...) makes the next build start from the same bytes. Debian 12 has Python 3.11.
ARG BASE_IMAGE=debian:bookworm

FROM ${BASE_IMAGE} AS base
COPY containers/install.sh /usr/local/lib/vlarl/install.sh
RUN sh /usr/local/lib/vlarl/install.sh libraries

FROM base AS build
ARG VARIANT=cpu
RUN sh /usr/local/lib/vlarl/install.sh tools
# The packages are a layer of their own: a change of vlarl's code does not install them again.
WORKDIR /usr/src/vlarl
COPY pyproject.toml ./
COPY tools/environment.py tools/lock_format.py tools/
COPY locks/ locks/
# `--secret id=pip,src=pip.conf` names a mirror, whose password then stays out of image and history.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf sh /usr/local/lib/vlarl/install.sh environment "${VARIANT}"
COPY README.md LICENSE ./
COPY recipes/ recipes/
COPY src/ src/
# SOURCE_DATE_EPOCH dates the files of the wheel.
ARG SOURCE_DATE_EPOCH=0
RUN sh /usr/local/lib/vlarl/install.sh project

FROM base AS final
ARG VARIANT=cpu
ARG BASE_IMAGE
ARG BASE_DIGEST=""
ARG REVISION=""
ARG SOURCE=""
ARG VERSION=0.1.0
COPY --from=build /opt/vlarl /opt/vlarl
RUN sh /usr/local/lib/vlarl/install.sh record "${VARIANT}" "${REVISION}" "${BASE_IMAGE}"

# A uid without an entry in /etc/passwd has no name and no home of its own; HOME, USER and LOGNAME stand in.
ENV PATH=/opt/vlarl/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/home/vlarl \
    USER=vlarl \
    LOGNAME=vlarl \
    LANG=C.UTF-8 \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/cache/huggingface \
    HF_HUB_OFFLINE=1 \
    NUMBA_CACHE_DIR=/cache/numba \
    MPLCONFIGDIR=/cache/matplotlib \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
LABEL org.opencontainers.image.title="vlarl" \
      org.opencontainers.image.description="Online reinforcement learning for vision-language-action policies" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}" \
      io.vlarl.variant="${VARIANT}"

USER 10001:10001
RUN sh /usr/local/lib/vlarl/install.sh check
# `runs` and `recipes/smoke.yaml` mean /runs and the shipped recipe here.
WORKDIR /
VOLUME ["/runs", "/cache"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["vlarl"]

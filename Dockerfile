# framefarm in containers: three images from one file.
#   docker build --target server -t framefarm-server .
#   docker build --target worker -t framefarm-worker .                       # CPU
#   docker build --target worker-cuda -t framefarm-worker-cuda .             # NVIDIA, run with --gpus all
# Every step is a script that people and CI run too. The server's stage installs neither FFmpeg nor CUDA, so code that
# reaches over that border does not even compile there.
ARG DEBIAN=debian:bookworm-slim
ARG CUDA_DEVEL=nvidia/cuda:13.0.0-devel-ubuntu24.04
ARG CUDA_RUNTIME=nvidia/cuda:13.0.0-runtime-ubuntu24.04

FROM ${DEBIAN} AS server-build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev meson ninja-build pkg-config python3 \
    ca-certificates libmicrohttpd-dev libsqlite3-dev libcjson-dev libssl-dev libcurl4-openssl-dev && rm -rf /var/lib/apt/lists/*
COPY . /src
WORKDIR /src
RUN scripts/build /build -Dworker=false -Dtests=false && strip /build/server/framefarm-server

FROM ${DEBIAN} AS server
COPY scripts/setup /tmp/setup
RUN /tmp/setup server-run && rm -rf /var/lib/apt/lists/* /tmp/setup && useradd --system --create-home --home /data framefarm
COPY --from=server-build /build/server/framefarm-server /usr/local/bin/
USER framefarm
VOLUME /data
EXPOSE 8088
# Beyond loopback the server wants tokens; see docs/operations.md.
ENV FRAMEFARM_LISTEN=0.0.0.0:8088 FRAMEFARM_DATA=/data FRAMEFARM_WORKERS=0
HEALTHCHECK --interval=15s --timeout=3s CMD curl -fsS http://127.0.0.1:8088/readyz || exit 1
ENTRYPOINT ["framefarm-server"]

FROM ${DEBIAN} AS worker-build
COPY scripts/setup /tmp/setup
RUN /tmp/setup build && rm -rf /var/lib/apt/lists/*
COPY . /src
WORKDIR /src
RUN scripts/build /build -Dserver=false -Dcuda=disabled -Dtests=false && strip /build/worker/framefarm-worker

FROM ${DEBIAN} AS worker
COPY scripts/setup /tmp/setup
RUN /tmp/setup worker-run && rm -rf /var/lib/apt/lists/* /tmp/setup && useradd --system --create-home framefarm
COPY --from=worker-build /build/worker/framefarm-worker /usr/local/bin/
COPY models /models
USER framefarm
ENV FRAMEFARM_MODELS=/models FRAMEFARM_DEVICE=cpu
HEALTHCHECK --interval=30s --timeout=3s CMD kill -0 1 || exit 1
ENTRYPOINT ["framefarm-worker"]

FROM ${CUDA_DEVEL} AS worker-cuda-build
COPY scripts/setup /tmp/setup
RUN /tmp/setup build && rm -rf /var/lib/apt/lists/*
COPY . /src
WORKDIR /src
RUN scripts/build /build -Dserver=false -Dcuda=enabled -Dtests=false && strip /build/worker/framefarm-worker

FROM ${CUDA_RUNTIME} AS worker-cuda
RUN apt-get update && apt-get install -y --no-install-recommends libcurl4t64 libcjson1 libssl3t64 libavcodec60 \
    libavformat60 libavfilter9 libavutil58 libswscale7 libsentencepiece0 libopenblas0-pthread ca-certificates \
    && rm -rf /var/lib/apt/lists/* && useradd --system --create-home framefarm
COPY --from=worker-cuda-build /build/worker/framefarm-worker /usr/local/bin/
USER framefarm
VOLUME /models
ENV FRAMEFARM_MODELS=/models FRAMEFARM_DEVICE=auto
HEALTHCHECK --interval=30s --timeout=3s CMD kill -0 1 || exit 1
ENTRYPOINT ["framefarm-worker"]

# Two images from one file. `service` is for every role; the command says which (`serve`, `work --role …`, `beat`,
# `migrate`). `gpu` is for the gpu role with an engine inside (`vllm:` models): it has vLLM, and is twenty times as large.
# Unverified: no container engine has built either yet. requirements/engine-gpu.txt was resolved for this Python and C
# library, every file of it as a wheel.

FROM python:3.12-slim-bookworm AS gpu
# Triton and torch compile what they launch on the GPU, at the first start with each model, with the host's compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap gcc git libc6-dev libseccomp2 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /home/service service \
    && install --directory --owner=service --group=service --mode=0700 /data
WORKDIR /opt/devstral-fix
COPY requirements/engine-gpu.txt requirements/
# Without dependencies: the lock is the whole closure, and decides about fastapi against what vLLM and the API ask for.
RUN pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes -r requirements/engine-gpu.txt
COPY pyproject.toml README.md LICENSE ./
COPY agent agent
COPY api api
COPY migrations migrations
COPY worker worker
# Installed, not only there: vLLM's processes find the plugin that ends them with their worker by its metadata.
RUN pip install --no-cache-dir --no-deps --no-build-isolation --no-index .
# As measured (docs/benchmarks): these two want a CUDA compiler, which is not here. What is compiled outlives the container.
ENV VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_USE_DEEP_GEMM=0 VLLM_CACHE_ROOT=/data/vllm TRITON_CACHE_DIR=/data/triton
USER service
WORKDIR /home/service
VOLUME /data
ENTRYPOINT ["devstral-fix"]
CMD ["work", "--role", "gpu"]

FROM python:3.13-slim-bookworm AS service

RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap git libseccomp2 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /home/service service \
    && install --directory --owner=service --group=service --mode=0700 /data

WORKDIR /opt/devstral-fix
COPY requirements/runtime.txt requirements/build.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/runtime.txt \
    && pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY agent agent
COPY api api
COPY migrations migrations
COPY worker worker
RUN pip install --no-cache-dir --no-deps --no-build-isolation --no-index .

USER service
WORKDIR /home/service
VOLUME /data
ENTRYPOINT ["devstral-fix"]
CMD ["--help"]

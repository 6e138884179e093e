# One image for every role; the command says which (`serve`, `work --role …`, `beat`, `migrate`).
# Unverified: no container engine has built it yet.
FROM python:3.13-slim-bookworm

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

# docker build -t latentseg .                                            on a processor
# docker build -t latentseg:cuda --build-arg TORCH_BACKEND=cu128 .       on NVIDIA GPUs; run with --gpus all
#
# docker run --rm --network none -v "$PWD:/data" latentseg segment ct.nii.gz --support examples/ -t liver -o out/
#
# docker build -t latentseg:serve --target serve .                       the workbench; then open http://127.0.0.1:8471/#token=TOKEN
# docker run --rm -p 127.0.0.1:8471:8471 --read-only --tmpfs /tmp --cap-drop ALL -e LATENTSEG_TOKEN=TOKEN \
#   -v "$PWD/project:/project" -v "$PWD/scans:/data:ro" latentseg:serve     TOKEN: a secret of 16 characters or more

FROM node:22-slim AS page
WORKDIR /source/web
COPY web/package.json web/package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY web ./
RUN npm run build

FROM python:3.11-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir hatchling
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY --from=page /source/src/latentseg/serve/page src/latentseg/serve/page
RUN pip wheel --no-deps --no-build-isolation -w /wheels .

FROM python:3.11-slim AS base
# What torch is built for: cpu, cu126, cu128, rocm6.3, ... as `uv pip install --torch-backend` knows it.
ARG TORCH_BACKEND=cpu
# Parts of the package that need more than the rest, as in pyproject.toml.
ARG EXTRAS=dicom,text,serve
COPY constraints.txt /tmp/
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --torch-backend "$TORCH_BACKEND" -c /tmp/constraints.txt \
        "latentseg[$EXTRAS] @ file://$(ls /wheels/latentseg-*.whl)" \
    && pip uninstall --yes uv \
    && rm -r /wheels
RUN useradd --create-home latentseg && mkdir /data && chown latentseg /data
USER latentseg
WORKDIR /data
# The compact weights are in the package: nothing is downloaded.
ENV LATENTSEG_OFFLINE=1

FROM base AS serve
USER root
RUN install -d -o latentseg /project
USER latentseg
ENV LATENTSEG_HOME=/tmp/latentseg PYTHONUNBUFFERED=1
EXPOSE 8471
VOLUME ["/project"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8471/api/health', timeout=4)"]
ENTRYPOINT ["latentseg", "serve", "/project", "--data", "/data", "--host", "0.0.0.0", "--no-browser"]

FROM base
ENTRYPOINT ["latentseg"]
CMD ["--help"]

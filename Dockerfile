# The workbench in a container: `docker build -t latentseg .`, then
#
#   docker run --rm -p 127.0.0.1:8471:8471 --read-only --tmpfs /tmp --cap-drop ALL \
#     -e LATENTSEG_TOKEN=choose-a-long-secret -v "$PWD/project:/project" -v "$PWD/scans:/data:ro" latentseg
#
# and open http://127.0.0.1:8471/#token=choose-a-long-secret. It runs as an ordinary user, writes to /project and /tmp
# alone, and talks to no other machine.

FROM node:20-slim AS page
WORKDIR /build/web
COPY web/package.json web/package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY web/ ./
RUN npm run build

FROM python:3.11-slim AS wheel
WORKDIR /build
RUN pip install --no-cache-dir "hatchling>=1.25"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY --from=page /build/src/latentseg/serve/page ./src/latentseg/serve/page
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation -w /wheels .

FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /tmp/constraints.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" torch==2.13.0 \
    && pip install --no-cache-dir -c /tmp/constraints.txt "$(echo /wheels/*.whl)[serve,dicom,text]" \
    && rm -rf /wheels /tmp/constraints.txt \
    && useradd --uid 1000 --create-home latentseg \
    && install -d -o latentseg /project /data
USER latentseg
ENV HF_HUB_OFFLINE=1 LATENTSEG_HOME=/tmp/latentseg PYTHONUNBUFFERED=1
EXPOSE 8471
VOLUME ["/project"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8471/api/health', timeout=4)"]
ENTRYPOINT ["latentseg", "serve", "/project", "--data", "/data", "--host", "0.0.0.0", "--no-browser"]

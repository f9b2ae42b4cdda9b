# docker build -t latentseg .                                            on a processor
# docker build -t latentseg:cuda --build-arg TORCH_BACKEND=cu128 .       on NVIDIA GPUs; run with --gpus all
# docker run --rm --network none -v "$PWD:/data" latentseg segment ct.nii.gz --support examples/ -t liver -o out/

FROM python:3.11-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir hatchling
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-deps --no-build-isolation -w /wheels .

FROM python:3.11-slim
# What torch is built for: cpu, cu126, cu128, rocm6.3, ... as `uv pip install --torch-backend` knows it.
ARG TORCH_BACKEND=cpu
# Parts of the package that need more than the rest, as in pyproject.toml.
ARG EXTRAS=dicom,text
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
# The hub's client has nothing to do here: the compact weights are in the package.
ENV LATENTSEG_OFFLINE=1
ENTRYPOINT ["latentseg"]
CMD ["--help"]

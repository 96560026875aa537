# dimo in a container.
#
#   docker build -t dimo .                                      # PyTorch as its package comes: CUDA, and CPUs
#   docker build -t dimo:cpu --build-arg TORCH_INDEX=URL .      # from an index of CPU builds: smaller by gigabytes
#   docker run --rm -v "$PWD/runs:/home/dimo/runs" dimo run --teacher maskgit
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/runs:/home/dimo/runs" dimo run --teacher maskgit --device cuda
#
# CUDA's libraries come with PyTorch; of the host it needs the driver and the NVIDIA container toolkit.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=""
ARG EXTRAS="vqgan,meissonic,dllm,lora,text,hub"
RUN python -m venv /opt/dimo
ENV PATH=/opt/dimo/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# PyTorch first: it is large, and this layer stays when the project changes.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.11" torchvision
COPY . /src
RUN pip install "/src[${EXTRAS}]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/dimo /opt/dimo
ENV PATH=/opt/dimo/bin:$PATH DIMO_CACHE=/home/dimo/cache
RUN useradd --create-home --uid 1000 dimo && mkdir -p /home/dimo/runs /home/dimo/cache && chown -R dimo /home/dimo
USER dimo
WORKDIR /home/dimo
VOLUME ["/home/dimo/runs", "/home/dimo/cache"]
ENTRYPOINT ["dimo"]
CMD ["--help"]

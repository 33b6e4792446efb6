# Serves a stored memory on port 8000:
#   docker build -t clara .                                                      # for CPUs
#   docker build -t clara --build-arg TORCH=https://download.pytorch.org/whl/cu128 .   # for CUDA; run with --gpus all
#   docker run -p 127.0.0.1:8000:8000 -v "$PWD/my_memory:/memory:ro" clara
# Any other command: docker run -v "$PWD:/work" -w /work clara build-memory notes/ --output my_memory
FROM python:3.11-slim

ARG TORCH=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HUB_DISABLE_TELEMETRY=1

RUN useradd --create-home clara
WORKDIR /opt/clara
COPY constraints.txt ./
RUN pip install --constraint constraints.txt --index-url "$TORCH" --extra-index-url https://pypi.org/simple torch
COPY . .
RUN pip install --constraint constraints.txt '.[serve,documents,store]'

USER clara
WORKDIR /home/clara
# The base of the shipped model, so that nothing is loaded from elsewhere later.
RUN python -c "from clara.bases.embedded import embedded_base_path; embedded_base_path()"

EXPOSE 8000
ENTRYPOINT ["clara"]
CMD ["serve", "--memory", "/memory", "--host", "0.0.0.0"]

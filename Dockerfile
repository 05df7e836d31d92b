# The service with its committed models: `make image`, or `make image-cuda` for NVIDIA GPUs.
# BASE is any image with Python 3.11; its own Python is the one that runs.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
# Which lock: serving, or serving-cuda.
ARG REQUIREMENTS=serving
# A bundle of certificates for networks with a proxy of their own, mounted into the build; not part of the image.
ARG PIP_CERT=
COPY requirements/${REQUIREMENTS}.txt /requirements.txt
# Not needed to run, and much of it: pip, the packages' own tests, ONNX Runtime's tools for making models.
RUN python3 -m venv /opt/timbre \
 && PIP_CERT=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt} PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    /opt/timbre/bin/python -m pip install --quiet --no-compile --no-deps --require-hashes -r /requirements.txt \
 && /opt/timbre/bin/python -m pip uninstall --quiet --yes pip setuptools \
 && find /opt/timbre -type d -name tests -prune -exec rm -r {} + \
 && rm -rf /opt/timbre/lib/python3*/site-packages/onnxruntime/transformers \
          /opt/timbre/lib/python3*/site-packages/onnxruntime/quantization \
          /opt/timbre/lib/python3*/site-packages/onnxruntime/tools
COPY serving /app/serving
COPY exported /app/exported
# Byte code is written here, of what is imported and of no more: the root file system will be read-only.
RUN cd /app && /opt/timbre/bin/python -c "import serving.__main__, serving.tracing, scipy.stats, markdown_it"

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="timbre" \
      org.opencontainers.image.description="Hears speech and says which emotion is in it" \
      org.opencontainers.image.licenses="MIT, and for the models CC-BY-NC-SA-4.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /opt/timbre /opt/timbre
COPY --from=packages /app /app
# What libraries would write to a home goes to /tmp, the one place that can be written.
ENV PATH=/opt/timbre/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TIMBRE_HOST=0.0.0.0
WORKDIR /app
USER 10001:10001
EXPOSE 3000 3001
# For Docker alone; Kubernetes has probes of its own.
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/livez')"]
ENTRYPOINT ["python", "-m", "serving"]
CMD ["serve"]

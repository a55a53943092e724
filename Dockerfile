FROM python:3.11-slim
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 FOVEA_DATA=/data FOVEA_HOST=0.0.0.0
WORKDIR /app
COPY requirements-build.txt requirements.txt ./
RUN python -m pip install -q --no-cache-dir --require-hashes -r requirements-build.txt \
 && uv pip install -q --system --no-cache --compile-bytecode --require-hashes -r requirements.txt
COPY pyproject.toml README.md requirements.in ./
COPY service service
COPY workers workers
RUN uv pip install -q --system --no-cache --no-deps --no-build-isolation . \
 && useradd --uid 10001 --create-home fovea && install -d -o fovea -g fovea /data
USER fovea
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
CMD ["python", "-m", "service"]

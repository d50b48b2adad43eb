# The worker, the console, and every other command, as an ordinary user. The root file system may be read-only, and no secret is in
# any layer: configuration and credentials come when it runs.
FROM python:3.13.9-slim-trixie AS build
WORKDIR /src
RUN python -m venv /opt/crm-export
# What is downloaded is what was looked at: each file by its hash (make lock).
COPY requirements.lock ./
RUN /opt/crm-export/bin/pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md worker.py ./
COPY activities activities
COPY control control
COPY crm_export crm_export
COPY salesforce_simulator salesforce_simulator
COPY workflows workflows
RUN /opt/crm-export/bin/pip install --no-cache-dir --no-index --no-deps --no-build-isolation .

FROM python:3.13.9-slim-trixie
RUN useradd --system --uid 10001 --no-create-home crm-export
COPY --from=build /opt/crm-export /opt/crm-export
ENV PATH=/opt/crm-export/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /config
ENTRYPOINT ["crm-export"]
CMD ["worker"]

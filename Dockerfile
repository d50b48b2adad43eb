# The worker, the console, and every other command, as an ordinary user. The root file system may be read-only.
FROM python:3.13.9-slim-trixie AS build
WORKDIR /src
RUN python -m venv /opt/crm-export
COPY constraints.txt pyproject.toml README.md worker.py ./
COPY activities activities
COPY control control
COPY crm_export crm_export
COPY salesforce_simulator salesforce_simulator
COPY workflows workflows
RUN /opt/crm-export/bin/pip install --no-cache-dir --constraint constraints.txt '.[console]'

FROM python:3.13.9-slim-trixie
RUN useradd --system --uid 10001 --no-create-home crm-export
COPY --from=build /opt/crm-export /opt/crm-export
ENV PATH=/opt/crm-export/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /config
ENTRYPOINT ["crm-export"]
CMD ["worker"]

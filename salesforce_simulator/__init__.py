"""A stand-in for Salesforce, a program of its own: ``python -m salesforce_simulator --port 8090``.

It behaves as the REST API does for sign-in, describe, limits, upserts by external ID (one record, and sObject
Collections with exact all-or-none semantics) and small SOQL queries. Everything is kept in memory;
with ``--keep FILE`` it is also in a file, and survives a kill.

Beside the API it has controls under ``/simulator``, for tests and demos, which need no token:

- ``GET /simulator/rules``, ``PUT /simulator/rules/NAME`` with one of the rules of :mod:`salesforce_simulator.rules`
  as JSON, ``DELETE /simulator/rules/NAME``: what the org refuses, switched on and off while it runs
- ``POST /simulator/expire-sessions``: every session ends now
- ``GET /simulator/audit?since=SEQ``: each record written, in order: ``{"seq", "call", "object", "key", "created"}``
- ``GET /simulator/calls``: each call: ``{"call", "at", "method", "path", "status", "records", "all_or_none",
  "refused"}``, ``at`` in seconds since 1970
- ``GET /simulator/records/OBJECT``: every record by its external ID; ``?field=`` names the field it is keyed by
- ``DELETE /simulator/records``: an empty org, and an empty audit
"""

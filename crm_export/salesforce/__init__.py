"""Salesforce: sign-in, calls, error codes, descriptions."""

from crm_export.salesforce.auth import (
    AccessToken,
    ClientCredentials,
    Credentials,
    JwtBearer,
    RefreshToken,
    is_safe_url,
)
from crm_export.salesforce.client import MOST_RECORDS, DailyApiRequests, Exchange, Salesforce
from crm_export.salesforce.description import FieldDescription, ObjectDescription, problems, unwritable
from crm_export.salesforce.errors import TABLE, facts, refusal

__all__ = [
    "MOST_RECORDS",
    "TABLE",
    "AccessToken",
    "ClientCredentials",
    "Credentials",
    "DailyApiRequests",
    "Exchange",
    "FieldDescription",
    "JwtBearer",
    "ObjectDescription",
    "RefreshToken",
    "Salesforce",
    "facts",
    "is_safe_url",
    "problems",
    "refusal",
    "unwritable",
]

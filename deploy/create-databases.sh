#!/bin/bash
# PostgreSQL's first start: a database and a user for the store, and for Temporal.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$POSTGRES_PASSWORD" --username "$POSTGRES_USER" <<'SQL'
CREATE USER crm_export PASSWORD :'password';
CREATE DATABASE crm_export OWNER crm_export;
CREATE USER temporal PASSWORD :'password';
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
SQL

#!/bin/sh
# Temporal's tables, created or brought up to date. Safe to repeat: what is set up already is left as it is.
set -eu
schema=/etc/temporal/schema/postgresql/v12
update() {
    tool="temporal-sql-tool --plugin postgres12 --endpoint postgres --port 5432 --user temporal --database $1"
    $tool setup-schema --version 0.0 || echo "$1 is set up already"
    $tool update-schema --schema-dir "$schema/$2/versioned"
}
update temporal temporal
update temporal_visibility visibility

#!/bin/sh
# The namespace, where closed runs are kept for 30 days. Safe to repeat.
set -eu
temporal operator namespace describe --namespace "$NAMESPACE" >/dev/null 2>&1 ||
    temporal operator namespace create --namespace "$NAMESPACE" --retention 720h

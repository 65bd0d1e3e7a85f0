#!/usr/bin/env bash
# Runs the given govulncheck command on the whole module. Its database is on the
# network; where that cannot be reached the check says that it did not run and
# passes, so that work goes on offline. Anything else that goes wrong fails.
set -euo pipefail

out=$(mktemp)
trap 'rm -f "$out"' EXIT

status=0
"$@" ./... >"$out" 2>&1 || status=$?
cat "$out"
if ((status != 0)) && tail -n 1 "$out" | grep -q '^govulncheck: fetching vulnerabilities: Get "https://'; then
	echo "vuln: DID NOT RUN: the vulnerability database cannot be reached from here"
	exit 0
fi
exit "$status"

#!/usr/bin/env bash
# Runs the given govulncheck command on the whole module. If its database cannot be
# reached over the network, the script reports that the check did not run and succeeds,
# so that offline work is possible. Every other error fails.
set -euo pipefail

out=$(mktemp)
trap 'rm -f "$out"' EXIT

status=0
"$@" ./... >"$out" 2>&1 || status=$?
cat "$out"
if ((status != 0)) && tail -n 1 "$out" | grep -q '^govulncheck: fetching vulnerabilities: Get "https://'; then
	echo "vuln: DID NOT RUN: cannot reach the vulnerability database"
	exit 0
fi
exit "$status"

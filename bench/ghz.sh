#!/usr/bin/env bash
# Measures a broker with ghz, as its users do: latency is what it shows well. Its
# own CPU is what limits the calls per second, so do not take those for the
# broker's; that is what make bench is for.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=$(mktemp -d)
broker_pid=
trap '[[ -z $broker_pid ]] || kill "$broker_pid"; rm -rf "$dir"' EXIT
go build -o "$dir/secretbroker" ./cmd/secretbroker
(cd "$dir" && exec ./secretbroker dev --listen 127.0.0.1:18443 --admin-listen 127.0.0.1:18081 --vault-listen 127.0.0.1:0) >"$dir/log" 2>&1 &
broker_pid=$!
for _ in $(seq 100); do
	curl -fsS http://127.0.0.1:18081/readyz >/dev/null 2>&1 && break
	kill -0 "$broker_pid" 2>/dev/null || { cat "$dir/log"; exit 1; }
	read -rt 0.1 <> <(:) || true
done
files=$(dirname "$(find "$dir" -name worker.pem | head -n 1)")
profile() {
	printf '\n=== %s\n' "$1"
	go tool -modfile=tools/ghz/go.mod ghz --cacert "$files/ca.pem" --cert "$files/worker.pem" --key "$files/worker-key.pem" \
		--call secretbroker.v1.ResolverService.Resolve \
		-d '{"integration_id": "cspi-sqlserver", "configs": {"connection.user": "https://your-key-vault-name.vault.azure.net::sqlserver-db-secret::user", "connection.password": "https://your-key-vault-name.vault.azure.net::sqlserver-db-secret::password"}}' \
		"${@:2}" 127.0.0.1:18443
}
profile "one call at a time" --connections 1 --concurrency 1 --total 2000
profile "64 at a time on 4 connections" --connections 4 --concurrency 64 --total 50000
profile "500 calls a second" --connections 4 --concurrency 64 --rps 500 --total 3000

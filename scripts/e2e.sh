#!/usr/bin/env bash
# Runs the examples of the README with the tools that users run: the broker in
# development mode, grpcurl and ghz. Stops at the first result that differs from the
# README.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$(mktemp -d)
dir=$(mktemp -d)/dev
trap 'kill "${broker:-}" 2>/dev/null || :; wait 2>/dev/null || :; rm -rf "$bin" "${dir%/dev}"' EXIT

go build -o "$bin/secretbroker" ./cmd/secretbroker
go build -o "$bin/" -modfile=tools/grpcurl/go.mod github.com/fullstorydev/grpcurl/cmd/grpcurl
go build -o "$bin/" -modfile=tools/ghz/go.mod github.com/bojand/ghz/cmd/ghz
PATH=$bin:$PATH

secretbroker dev --dir "$dir" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --vault-listen 127.0.0.1:0 \
  --log-level error >"$bin/dev.out" &
broker=$!
for _ in $(seq 100); do
  grep -q '^Stop with' "$bin/dev.out" && break
  kill -0 "$broker"
  sleep 0.1
done
addr=$(awk '$1 == "broker" && $2 ~ /:/ {print $2; exit}' "$bin/dev.out")
admin=$(awk '$1 == "admin" {sub("/readyz", "", $2); print $2; exit}' "$bin/dev.out")

fail() { echo "e2e: $*" >&2; exit 1; }
# expect TEXT COMMAND...: fails unless the command prints TEXT; ignores its exit code.
expect() {
  local want=$1 got
  shift
  got=$("$@" 2>&1) || true
  [[ $got == *"$want"* ]] || fail "expected \"$want\" from: $*"$'\n'"$got"
  echo "ok: $want"
}
vault=https://your-key-vault-name.vault.azure.net
call=secretbroker.v1.ResolverService/Resolve
as() { local who=$1; shift; grpcurl -cacert "$dir/ca.pem" -cert "$dir/$who.pem" -key "$dir/$who-key.pem" "$@"; }
ask() { printf '{"integration_id":"cspi-sqlserver","configs":{"p":"%s::%s"}%s}' "$vault" "$1" "${2:-}"; }

expect 'secretbroker.v1.ResolverService' as worker "$addr" list
expect 'rpc Resolve' as worker "$addr" describe secretbroker.v1.ResolverService
expect 'SERVING' as worker "$addr" grpc.health.v1.Health/Check
expect '"value": "$trongPassw0rdExamp1e"' as worker -d "$(ask sqlserver-db-secret::password)" "$addr" $call
expect 'PermissionDenied' as other-worker -d "$(ask sqlserver-db-secret::password)" "$addr" $call
expect 'ACCESS_DENIED' as other-worker -d "$(ask sqlserver-db-secret::password)" "$addr" $call
expect 'INVALID_REFERENCE' as worker -d "$(ask 'bad_name')" "$addr" $call
expect 'certificate' grpcurl -cacert "$dir/ca.pem" -max-time 5 "$addr" list
sed -i 's/correct-horse-battery-staple/rotated/' "$dir/secrets.yaml"
expect '"value": "rotated"' as worker -d "$(ask postgres-password ',"max_age":"0s"')" "$addr" $call

# Run the command lines that dev prints.
grep '^  grpcurl' "$bin/dev.out" | head -1 >"$bin/pasted.sh"
expect '$trongPassw0rdExamp1e' bash "$bin/pasted.sh"
grep '^  secretbroker resolve' "$bin/dev.out" >"$bin/pasted.sh"
expect 'database.password' bash "$bin/pasted.sh"
grep '^  ghz' "$bin/dev.out" | sed 's/-n 20000/-n 2000/' >"$bin/pasted.sh"
expect '[OK]' bash "$bin/pasted.sh"
if bash "$bin/pasted.sh" | grep -q '\[\(Unavailable\|Internal\|PermissionDenied\|ResourceExhausted\)\]'; then
  fail "ghz reported errors"
fi

expect 'ok ' secretbroker check --addr "$addr" --ca "$dir/ca.pem" --cert "$dir/worker.pem" --key "$dir/worker-key.pem" --file examples/sqlserver-cdc.json
expect 'no grant names this principal' secretbroker explain --config "$dir/secretbroker.yaml" \
  --principal spiffe://example.org/other/worker-2 $vault::oracle-password
expect '"allowed": true' as auditor -d '{"reference":"'$vault'::postgres-password","principal":"spiffe://example.org/connect/worker-1"}' \
  "$addr" secretbroker.v1.PolicyService/Explain
expect 'PermissionDenied' as worker -d '{"reference":"'$vault'::postgres-password"}' "$addr" secretbroker.v1.PolicyService/Explain

expect '"outcome":"served"' cat "$dir/audit.jsonl"
if grep -E 'Passw0rd|rotated|battery' "$dir/audit.jsonl"; then fail "the audit log contains a value"; fi
kill -TERM "$broker"
wait "$broker" || fail "the broker exited with status $?"
broker=
echo "e2e: all results match the README ($admin)"

"""Keeps the values of references current, through a secretbroker.

    See resolve.py for the packages. The generated code also needs watch.proto:
    .venv/bin/python -m grpc_tools.protoc -I proto --python_out=examples/python \
        --grpc_python_out=examples/python secretbroker/v1/resolver.proto secretbroker/v1/watch.proto

    secretbroker dev                                      # in another terminal
    .venv/bin/python examples/python/follow.py 127.0.0.1:8443 .secretbroker cspi-sqlserver \
        password=https://your-key-vault-name.vault.azure.net::sqlserver-db-secret::password

It prints each change until Ctrl-C, but never values. Change one in .secretbroker/secrets.yaml.
"""

import random
import sys
import time

import grpc
from google.protobuf import duration_pb2
from resolve import channel, explain
from secretbroker.v1 import resolver_pb2, resolver_pb2_grpc, watch_pb2, watch_pb2_grpc

State = watch_pb2.Notice


class Follower:
    """Has the current value of every config in values; not of those that are denied."""

    def __init__(self, open_channel: grpc.Channel, integration: str, configs: dict[str, str]):
        self.resolver = resolver_pb2_grpc.ResolverServiceStub(open_channel)
        self.watcher = watch_pb2_grpc.WatchServiceStub(open_channel)
        self.integration, self.configs = integration, configs
        self.values: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        # The configs to resolve, with the time of the read that found the new version.
        self.pending: dict[str, object] = {}

    def resolve(self, configs: dict[str, str], **freshness) -> None:
        """Resolves configs; those that fail keep their value and stay pending."""
        response = self.resolver.Resolve(resolver_pb2.ResolveRequest(
            integration_id=self.integration, configs=configs, allow_partial=True, **freshness), timeout=10)
        for name, config in response.configs.items():
            self.values[name], self.versions[name] = config.value, config.version
            self.pending.pop(name, None)
            print(f"{name}: {len(config.value)} characters, version {config.version}", flush=True)
        for name, error in response.errors.items():
            print(f"{name}: {error.reason}: {error.message}", file=sys.stderr, flush=True)

    def notice(self, notice: watch_pb2.Notice) -> None:
        """Takes over what the broker tells about a config."""
        name = notice.config
        if notice.state == State.STATE_DENIED:
            self.values.pop(name, None)
            self.versions.pop(name, None)
            self.pending.pop(name, None)
            print(f"{name}: denied: {notice.error.reason}", flush=True)
        elif notice.state == State.STATE_UNREADABLE:  # keep the value
            print(f"{name}: {notice.error.reason}: {notice.error.message}", file=sys.stderr, flush=True)
        elif notice.version and (notice.version != self.versions.get(name)
                                 or notice.generated and notice.state == State.STATE_EXPIRING):
            # A generated credential is of one replica. The broker renews or replaces it.
            self.pending[name] = None if notice.generated else notice.fetch_time

    def catch_up(self) -> None:
        """Resolves what has changed."""
        for name, fetch_time in list(self.pending.items()):
            config = {name: self.configs[name]}
            try:
                self.resolve(config, not_read_before=fetch_time)
            except grpc.RpcError as error:
                if fetch_time is None or error.code() != grpc.StatusCode.INVALID_ARGUMENT:
                    raise
                # The clock of this replica is behind that of the one that sent the notice.
                self.resolve(config, max_age=duration_pb2.Duration())

    def stream(self) -> float:
        """Follows one stream to its end, and returns the wait that the broker requests."""
        request = watch_pb2.WatchRequest(sets=[watch_pb2.WatchSet(
            integration_id=self.integration, configs=self.configs, known_versions=self.versions)])
        after = 0.0
        stream = self.watcher.Watch(request)
        for message in stream:
            for notice in message.notices:
                self.notice(notice)
            self.catch_up()
            if self.pending:  # the next stream begins with these notices again
                stream.cancel()
                return 1.0
            if message.HasField("reconnect_after"):
                after = message.reconnect_after.ToTimedelta().total_seconds()
        return after

    def follow(self) -> None:
        """Follows the configs until the broker refuses the request or the certificate."""
        self.resolve(self.configs)
        failures = 0
        while True:
            began = time.monotonic()
            try:
                wait = self.stream()
            except grpc.RpcError as error:
                wait = 0.0
                print(explain(error), file=sys.stderr, flush=True)
                if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED):
                    raise SystemExit(1) from error
            failures = 0 if time.monotonic() - began > 10 else failures + 1
            if failures:
                step = min(0.2 * 2 ** min(failures - 1, 10), 15)
                wait += step / 2 + random.random() * step / 2
            time.sleep(wait)


def main() -> int:
    address, directory, integration, *pairs = sys.argv[1:]
    configs = dict(pair.split("=", 1) for pair in pairs)
    with channel(address, directory) as open_channel:
        try:
            Follower(open_channel, integration, configs).follow()
        except grpc.RpcError as error:
            print(explain(error), file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())

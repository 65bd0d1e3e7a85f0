"""Resolves references through a secretbroker, using only gRPC.

    python3 -m venv .venv && .venv/bin/pip install grpcio grpcio-tools googleapis-common-protos
    .venv/bin/python -m grpc_tools.protoc -I proto --python_out=examples/python \
        --grpc_python_out=examples/python secretbroker/v1/resolver.proto

    secretbroker dev                                      # in another terminal
    .venv/bin/python examples/python/resolve.py 127.0.0.1:8443 .secretbroker cspi-sqlserver \
        password=https://your-key-vault-name.vault.azure.net::sqlserver-db-secret::password

A program should keep one channel for as long as it runs. This one never prints values.
"""

import pathlib
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2
from secretbroker.v1 import resolver_pb2, resolver_pb2_grpc


def channel(address: str, directory: str) -> grpc.Channel:
    """Returns a channel that uses mutual TLS with the files of a runtime."""
    files = pathlib.Path(directory)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=(files / "ca.pem").read_bytes(),
        private_key=(files / "worker-key.pem").read_bytes(),
        certificate_chain=(files / "worker.pem").read_bytes(),
    )
    # A stream of follow.py notices a connection that was cut without notice.
    return grpc.secure_channel(address, credentials, options=[("grpc.keepalive_time_ms", 60_000)])


def explain(error: grpc.RpcError) -> str:
    """Returns the broker's reason and request id from the error's details."""
    reason, request_id = error.code().name, ""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(request):
                request_id = request.request_id
    return f"{reason}: {error.details()} (request {request_id})"


def main() -> int:
    address, directory, integration, *pairs = sys.argv[1:]
    configs = dict(pair.split("=", 1) for pair in pairs)
    with channel(address, directory) as open_channel:
        broker = resolver_pb2_grpc.ResolverServiceStub(open_channel)
        request = resolver_pb2.ResolveRequest(
            integration_id=integration, configs=configs, allow_partial=True)
        try:
            response = broker.Resolve(request, timeout=5)
        except grpc.RpcError as error:
            print(explain(error), file=sys.stderr)
            return 1
    for name, config in response.configs.items():
        # config.value is the secret.
        print(f"{name}: {len(config.value)} characters, version {config.version}")
    for name, error in response.errors.items():
        print(f"{name}: {error.reason}: {error.message} (request {response.request_id})")
    return 1 if response.errors else 0


if __name__ == "__main__":
    sys.exit(main())

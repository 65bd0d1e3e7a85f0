"""Tests follow.py without a broker. See make test-peers."""

import contextlib
import io
import unittest

import grpc
from follow import Follower, State
from google.protobuf import timestamp_pb2
from secretbroker.v1 import resolver_pb2, watch_pb2


class Refused(grpc.RpcError):
    def code(self):
        return grpc.StatusCode.INVALID_ARGUMENT


class Broker:
    """Answers Resolve with the version, and refuses not_read_before if its clock is behind."""

    def __init__(self):
        self.version, self.behind, self.refuses, self.requests = "1", False, False, []

    def Resolve(self, request, timeout):  # noqa: N802, the name of the method
        self.requests.append(request)
        if self.refuses or self.behind and request.HasField("not_read_before"):
            raise Refused
        return resolver_pb2.ResolveResponse(configs={
            name: resolver_pb2.ResolvedConfig(value="canary", version=self.version) for name in request.configs})


class FollowTest(unittest.TestCase):
    def setUp(self):
        self.broker = Broker()
        self.follower = Follower.__new__(Follower)
        self.follower.resolver, self.follower.integration, self.follower.configs = self.broker, "it", {"p": "ref"}
        self.follower.values, self.follower.versions, self.follower.pending = {}, {"p": "1"}, {}

    def tell(self, state, version, **fields):
        with contextlib.redirect_stdout(io.StringIO()):
            self.follower.notice(watch_pb2.Notice(config="p", state=state, version=version, **fields))
            self.follower.catch_up()

    def test_change(self):
        self.broker.version = "2"
        read = timestamp_pb2.Timestamp(seconds=5)
        self.tell(State.STATE_CHANGED, "2", fetch_time=read)
        self.assertEqual([r.not_read_before for r in self.broker.requests], [read])
        self.assertEqual((self.follower.versions, self.follower.pending), ({"p": "2"}, {}))

    def test_clock_of_the_replica_is_behind(self):
        self.broker.version, self.broker.behind = "2", True
        self.tell(State.STATE_CHANGED, "2", fetch_time=timestamp_pb2.Timestamp(seconds=5))
        self.assertTrue(self.broker.requests[1].HasField("max_age"))
        self.assertEqual(self.broker.requests[1].max_age.ToNanoseconds(), 0)
        self.assertEqual((self.follower.versions, self.follower.pending), ({"p": "2"}, {}))

    def test_other_refusals_end_it(self):
        self.broker.refuses = True
        with self.assertRaises(Refused):
            self.tell(State.STATE_CHANGED, "2", generated=True)

    def test_generated_credential(self):
        self.tell(State.STATE_CURRENT, "1", generated=True)
        self.assertEqual(self.broker.requests, [])
        self.tell(State.STATE_EXPIRING, "1", generated=True)
        self.broker.version = "2"
        self.tell(State.STATE_CHANGED, "2", generated=True)
        self.assertEqual(len(self.broker.requests), 2)
        self.assertFalse(any(r.HasField("not_read_before") for r in self.broker.requests))
        self.assertEqual(self.follower.versions, {"p": "2"})


if __name__ == "__main__":
    unittest.main()

package io.github.secretbroker.connect;

import static io.github.secretbroker.connect.Bench.REFERENCE;
import static io.github.secretbroker.connect.Bench.failure;
import static io.github.secretbroker.connect.Bench.get;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.MessageLite;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RequestInfo;
import com.google.rpc.RetryInfo;
import io.github.secretbroker.v1.ConfigError;
import io.github.secretbroker.v1.ResolveRequest;
import io.github.secretbroker.v1.ResolveResponse;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.lite.ProtoLiteUtils;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.common.config.ConfigException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Tests with brokers that refuse calls, are overloaded, do not answer or are down. */
class FailureTest {
  @TempDir Path dir;
  private Bench bench;
  private SecretBrokerConfigProvider provider;

  @BeforeEach
  void start() {
    bench = new Bench(dir);
    provider = bench.provider();
  }

  @AfterEach
  void stop() {
    bench.close();
  }

  private static StatusRuntimeException status(Status.Code code, String message, MessageLite... details) {
    com.google.rpc.Status.Builder status = com.google.rpc.Status.newBuilder().setCode(code.value()).setMessage(message);
    for (MessageLite detail : details) {
      status.addDetails(Any.newBuilder()
          .setTypeUrl("type.googleapis.com/google.rpc." + detail.getClass().getSimpleName())
          .setValue(detail.toByteString()));
    }
    Metadata trailers = new Metadata();
    trailers.put(Metadata.Key.of("grpc-status-details-bin",
        ProtoLiteUtils.metadataMarshaller(com.google.rpc.Status.getDefaultInstance())), status.build());
    return code.toStatus().withDescription(message).asRuntimeException(trailers);
  }

  private static ErrorInfo reason(String reason) {
    return ErrorInfo.newBuilder().setDomain("secretbroker").setReason(reason).build();
  }

  private static final RequestInfo REQUEST = RequestInfo.newBuilder().setRequestId("request-3").build();

  @Test
  void aRefusedCallIsNotRepeated() {
    bench.broker.answer = request -> {
      throw status(Status.Code.UNAUTHENTICATED, "the certificate names nobody", reason("UNAUTHENTICATED"), REQUEST);
    };
    assertEquals("secretbroker: the secrets of integration cspi could not be resolved (request request-3):"
        + " UNAUTHENTICATED: the certificate names nobody", failure(provider, REFERENCE));
    assertEquals(1, bench.broker.requests.size());
  }

  @Test
  void violationsNameTheirReferences() {
    BadRequest.FieldViolation violation = BadRequest.FieldViolation.newBuilder()
        .setField("configs[\"k1\"]").setReason("SECRET_DISABLED").setDescription("enable it").build();
    bench.broker.answer = request -> {
      throw status(Status.Code.FAILED_PRECONDITION, "1 of 2", reason("SECRET_DISABLED"), REQUEST,
          BadRequest.newBuilder().addFieldViolations(violation).build());
    };
    assertEquals("secretbroker: 1 of 2 references through integration cspi cannot be resolved (request request-3):"
        + " SECRET_DISABLED for https://v.vault.azure.net::b: enable it",
        failure(provider, REFERENCE, "https://v.vault.azure.net::b"));
  }

  @Test
  void whatPassesByItselfIsRepeated() {
    AtomicInteger calls = new AtomicInteger();
    bench.broker.answer = request -> {
      switch (calls.incrementAndGet()) {
        case 1 -> throw status(Status.Code.RESOURCE_EXHAUSTED, "busy", reason("OVERLOADED"), REQUEST,
            RetryInfo.newBuilder().setRetryDelay(Duration.newBuilder().setNanos(1_000_000)).build());
        case 2 -> {
          return ResolveResponse.newBuilder().putErrors("k0", ConfigError.newBuilder().setReason("STORE_THROTTLED")
              .setRetryDelay(Duration.newBuilder().setNanos(1_000_000)).build()).build();
        }
        case 3 -> throw Status.UNAVAILABLE.withDescription("restarting").asRuntimeException();
        default -> {
          return FakeBroker.echo(request);
        }
      }
    };
    assertEquals("value of " + REFERENCE, get(provider, REFERENCE).data().get(REFERENCE));
    assertEquals(4, calls.get());
  }

  @Test
  void aWaitBeyondTheDeadlineIsNotBegun() {
    bench.broker.answer = request -> ResolveResponse.newBuilder().setRequestId("request-4")
        .putErrors("k0", ConfigError.newBuilder().setReason("STORE_UNAVAILABLE").setMessage("wait")
            .setRetryDelay(Duration.newBuilder().setSeconds(60)).build()).build();
    assertTrue(failure(provider, REFERENCE).endsWith("STORE_UNAVAILABLE for " + REFERENCE + ": wait"));
    assertEquals(1, bench.broker.requests.size());
  }

  @Test
  void oneFaultForAPersonEndsAllRepetitions() {
    bench.broker.answer = request -> ResolveResponse.newBuilder().setRequestId("request-4")
        .putErrors("k0", ConfigError.newBuilder().setReason("STORE_THROTTLED").setRetryDelay(Duration.getDefaultInstance()).build())
        .putErrors("k1", ConfigError.newBuilder().setReason("ACCESS_DENIED").build()).build();
    failure(provider, REFERENCE, "https://v.vault.azure.net::b");
    assertEquals(1, bench.broker.requests.size());
  }

  @Test
  void aBrokerThatDoesNotAnswerCostsTheTimeout() {
    CountDownLatch release = new CountDownLatch(1);
    bench.broker.answer = request -> {
      Bench.await(release);
      return FakeBroker.echo(request);
    };
    String text = failure(provider, REFERENCE);
    assertTrue(text.contains("SECRETBROKER_UNREACHABLE: no answer in time from the broker at localhost:"), text);
    assertTrue(failure(provider, REFERENCE).contains("SECRETBROKER_UNREACHABLE"));
    release.countDown();
  }

  @Test
  void aBrokerThatComesBackIsFoundAtOnce() {
    int port = bench.broker.port();
    get(provider, REFERENCE);
    bench.broker.close();
    String text = failure(provider, REFERENCE);
    // On a busy machine the time may be over before an attempt has failed.
    assertTrue(text.contains("SECRETBROKER_UNREACHABLE: cannot reach the broker at localhost:" + port)
        || text.contains("SECRETBROKER_UNREACHABLE: no answer in time from the broker at localhost:" + port), text);
    failure(provider, REFERENCE);
    bench.broker = new FakeBroker(bench.authority, bench.server, port);
    assertEquals("value of " + REFERENCE, get(provider, REFERENCE).data().get(REFERENCE));
  }

  /** After an outage only the wait for a connection is short, and not that for a slow store. */
  @Test
  void aSlowStoreAfterAnOutageHasTheWholeTimeout() throws Exception {
    Map<String, String> settings = bench.settings();
    settings.put("timeout.ms", "4000");
    SecretBrokerConfigProvider patient = bench.provider(settings);
    int port = bench.broker.port();
    bench.broker.close();
    failure(patient, REFERENCE);
    bench.broker = new FakeBroker(bench.authority, bench.server, port);
    bench.broker.answer = request -> {
      LockSupport.parkNanos(TimeUnit.MILLISECONDS.toNanos(2_500));
      return FakeBroker.echo(request);
    };
    assertEquals("value of " + REFERENCE, get(patient, REFERENCE).data().get(REFERENCE));
  }

  @Test
  void closingEndsTheCallsInProgress() throws Exception {
    Map<String, String> settings = bench.settings();
    settings.put("timeout.ms", "9000");
    SecretBrokerConfigProvider closing = bench.provider(settings);
    CountDownLatch called = new CountDownLatch(1);
    CountDownLatch release = new CountDownLatch(1);
    bench.broker.answer = request -> {
      called.countDown();
      Bench.await(release);
      return FakeBroker.echo(request);
    };
    ExecutorService thread = Executors.newSingleThreadExecutor();
    try {
      Future<String> call = thread.submit(() -> failure(closing, REFERENCE));
      Bench.await(called);
      long began = System.nanoTime();
      closing.close();
      String text = call.get();
      long took = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began);
      assertTrue(text.contains("the provider was closed during the call"), text);
      assertTrue(took < 3_000, "it took " + took + " ms");
    } finally {
      release.countDown();
      thread.shutdownNow();
    }
  }

  @Test
  void aBrokerThatRestartsDuringACallIsWaitedFor() throws InterruptedException {
    int port = bench.broker.port();
    get(provider, REFERENCE);
    bench.broker.close();
    Thread restart = new Thread(() -> {
      bench.broker = new FakeBroker(bench.authority, bench.server, port);
    });
    restart.start();
    assertEquals("value of " + REFERENCE, get(provider, REFERENCE).data().get(REFERENCE));
    restart.join();
  }

  @Test
  void onlyOneOfSeveralBrokersIsNeeded() {
    try (FakeBroker second = new FakeBroker(bench.authority, bench.authority.server("localhost"), 0)) {
      Map<String, String> settings = bench.settings();
      settings.put("addresses", "no-such-host.invalid:1, localhost:1, localhost:" + second.port() + ",localhost:" + bench.broker.port());
      SecretBrokerConfigProvider both = bench.provider(settings);
      for (int i = 0; i < 200 && (second.requests.isEmpty() || bench.broker.requests.isEmpty()); i++) {
        get(both, REFERENCE);
      }
      assertTrue(!second.requests.isEmpty() && !bench.broker.requests.isEmpty(), "calls go to both");
      second.close();
      for (int i = 0; i < 10; i++) {
        get(both, REFERENCE);
      }
    }
  }

  @Test
  void providersShareOneConnectionAndTheLastOneEndsIt() {
    SecretBrokerConfigProvider other = bench.provider();
    get(provider, REFERENCE);
    get(other, REFERENCE);
    assertEquals(1, bench.broker.peers.size(), "connections");
    provider.close();
    get(other, REFERENCE);
    assertEquals(1, bench.broker.peers.size(), "connections");
    other.close();
    other.close();
    assertThrows(ConfigException.class, () -> get(other, REFERENCE));
    get(bench.provider(), REFERENCE);
    assertEquals(2, bench.broker.peers.size(), "connections");
  }

  @Test
  void whatIsNoBrokerIsNamed() {
    bench.broker.answer = (ResolveRequest request) -> {
      throw Status.UNIMPLEMENTED.asRuntimeException();
    };
    assertTrue(failure(provider, REFERENCE).contains("is not a secretbroker"));
  }
}

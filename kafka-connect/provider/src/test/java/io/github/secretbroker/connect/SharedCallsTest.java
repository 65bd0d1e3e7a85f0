package io.github.secretbroker.connect;

import static io.github.secretbroker.connect.Bench.REFERENCE;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Duration;
import com.google.protobuf.Timestamp;
import io.github.secretbroker.v1.ConfigError;
import io.github.secretbroker.v1.ResolveRequest;
import io.github.secretbroker.v1.ResolveResponse;
import io.github.secretbroker.v1.ResolvedConfig;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Tests which calls share an answer, and which do not. */
class SharedCallsTest {
  private static final long HOUR = TimeUnit.HOURS.toNanos(1);
  private static final long ANY = Long.MAX_VALUE;
  private static final Target CSPI = Target.of("cspi");
  private static final ResolveRequest REQUEST = BrokerConnection.request(CSPI, List.of(REFERENCE), null);

  @TempDir Path dir;
  private Bench bench;
  private BrokerConnection broker;
  private final ExecutorService threads = Executors.newCachedThreadPool();
  private final CountDownLatch called = new CountDownLatch(1);
  private final CountDownLatch release = new CountDownLatch(1);
  private final AtomicInteger versions = new AtomicInteger();

  @BeforeEach
  void start() {
    bench = new Bench(dir);
    connect("9000");
    bench.broker.answer = this::versioned;
  }

  private void connect(String timeout) {
    Map<String, String> settings = bench.settings();
    settings.put("timeout.ms", timeout);
    broker = BrokerConnection.acquire(Settings.parse(settings));
  }

  @AfterEach
  void stop() {
    release.countDown();
    threads.shutdownNow();
    broker.close();
    bench.close();
  }

  /** Answers each call with another value. */
  private ResolveResponse versioned(ResolveRequest request) {
    ResolveResponse.Builder response = ResolveResponse.newBuilder().setRequestId("request-1");
    int version = versions.incrementAndGet();
    request.getConfigsMap().keySet().forEach(
        name -> response.putConfigs(name, ResolvedConfig.newBuilder().setValue("canary-" + version).build()));
    return response.build();
  }

  /** Answers as before, but the first call only when the test releases it. */
  private void holdTheFirst() {
    var answer = bench.broker.answer;
    AtomicInteger calls = new AtomicInteger();
    bench.broker.answer = request -> {
      if (calls.getAndIncrement() == 0) {
        called.countDown();
        Bench.await(release);
      }
      return answer.apply(request);
    };
  }

  private SharedCalls calls(long hold) {
    return new SharedCalls(broker, hold);
  }

  private Answer resolve(SharedCalls calls, ResolveRequest request) throws BrokerException {
    return calls.resolve(request, broker.deadline(), ANY);
  }

  private Future<Answer> begin(SharedCalls calls) {
    return threads.submit(() -> resolve(calls, REQUEST));
  }

  /** Waits at most 30 s until the condition is true. */
  static void await(String what, BooleanSupplier holds) throws InterruptedException {
    for (int looks = 0; !holds.getAsBoolean(); looks++) {
      assertTrue(looks < 3000, what);
      Thread.sleep(10);
    }
  }

  /** Begins a call that hangs, and others that join it. */
  private List<Future<Answer>> beginJoined(SharedCalls calls, int others) throws InterruptedException {
    holdTheFirst();
    List<Future<Answer>> all = new ArrayList<>(List.of(begin(calls)));
    Bench.await(called);
    for (int i = 0; i < others; i++) {
      all.add(begin(calls));
    }
    await("all have joined", () -> calls.waiting() == 1 + others);
    return all;
  }

  @Test
  void callsForTheSameReferencesJoinTheOneInProgress() throws Exception {
    SharedCalls calls = calls(0);
    List<Future<Answer>> all = beginJoined(calls, 7);
    release.countDown();
    for (Future<Answer> call : all) {
      assertEquals(List.of("canary-1"), call.get().values());
    }
    assertEquals(1, bench.broker.requests.size());
    assertEquals(0, calls.kept(), "values in memory after the last call has got them");
    assertEquals(List.of("canary-2"), resolve(calls, REQUEST).values(), "a later call");
  }

  @Test
  void anAnswerIsSharedForAMoment() throws Exception {
    try (SharedCalls calls = calls(HOUR)) {
      assertEquals(List.of("canary-1"), resolve(calls, REQUEST).values());
      assertEquals(List.of("canary-1"), resolve(calls, REQUEST).values());
      assertEquals(1, bench.broker.requests.size());
      assertEquals(1, calls.kept());
      calls.close();
      assertEquals(0, calls.kept(), "values in memory after close");
    }
  }

  @Test
  void valuesAreOverwrittenAfterAMoment() throws Exception {
    try (SharedCalls calls = calls(SharedCalls.HOLD)) {
      resolve(calls, REQUEST);
      await("no values are in memory", () -> calls.kept() == 0);
      assertEquals(List.of("canary-2"), resolve(calls, REQUEST).values());
    }
    char[][] values = {"canary".toCharArray()};
    SharedCalls.overwrite(values);
    assertArrayEquals(new char[6], values[0]);
  }

  @Test
  void onlyEqualRequestsShareAnAnswer() throws Exception {
    try (SharedCalls calls = calls(HOUR)) {
      List<ResolveRequest> different = List.of(
          REQUEST,
          REQUEST.toBuilder().setConnector("orders").build(),
          REQUEST.toBuilder().setConnector("payments").build(),
          REQUEST.toBuilder().setMaxAge(Duration.newBuilder().setSeconds(10)).build(),
          REQUEST.toBuilder().setMaxAge(Duration.getDefaultInstance()).build(),
          REQUEST.toBuilder().setNotReadBefore(Timestamp.newBuilder().setSeconds(1)).build(),
          REQUEST.toBuilder().setNotReadBefore(Timestamp.newBuilder().setSeconds(2)).build(),
          REQUEST.toBuilder().setAllowPartial(false).build(),
          REQUEST.toBuilder().setIntegrationId("other").build(),
          BrokerConnection.request(CSPI, List.of(REFERENCE + "2"), null),
          BrokerConnection.request(CSPI, List.of(REFERENCE, REFERENCE + "2"), null));
      for (ResolveRequest request : different) {
        resolve(calls, request);
      }
      assertEquals(different, bench.broker.requests);
      for (ResolveRequest request : different) {
        resolve(calls, request);
      }
      assertEquals(different, bench.broker.requests, "the second round shares the answers of the first");
    }
  }

  /** The order of a set of references does not matter. */
  @Test
  void aProviderSharesTheAnswerOfEqualSets() {
    SecretBrokerConfigProvider provider = new SecretBrokerConfigProvider(HOUR);
    provider.configure(bench.settings());
    Bench.get(provider, REFERENCE, "https://v.vault.azure.net::b");
    assertEquals("canary-1", Bench.get(provider, "https://v.vault.azure.net::b", REFERENCE).data().get(REFERENCE));
    assertEquals(1, bench.broker.requests.size());
    provider.close();
  }

  /** One provider serves all connectors of a worker; each connector must have its own calls. */
  @Test
  void aProviderSharesNothingAcrossConnectors() {
    SecretBrokerConfigProvider provider = new SecretBrokerConfigProvider(HOUR);
    provider.configure(bench.settings());
    List<String> paths = List.of("cspi", "cspi/orders", "cspi/payments");
    for (int round = 0; round < 2; round++) {
      for (int i = 0; i < paths.size(); i++) {
        assertEquals("canary-" + (i + 1), provider.get(paths.get(i), java.util.Set.of(REFERENCE)).data().get(REFERENCE));
      }
    }
    provider.get("cspi/%6Frders", java.util.Set.of(REFERENCE)); // another way to write orders
    assertEquals(List.of("", "orders", "payments"), bench.broker.requests.stream().map(ResolveRequest::getConnector).toList());
    provider.close();
  }

  @Test
  void errorsAreSharedOnlyWithTheCallsThatHaveJoined() throws Exception {
    bench.broker.answer = request -> ResolveResponse.newBuilder().setRequestId("request-" + versions.incrementAndGet())
        .putErrors("k0", ConfigError.newBuilder().setReason("SECRET_NOT_FOUND").setMessage("fix the name").build()).build();
    SharedCalls calls = calls(HOUR);
    List<Future<Answer>> all = beginJoined(calls, 3);
    release.countDown();
    for (Future<Answer> call : all) {
      BrokerException e = (BrokerException) assertThrows(ExecutionException.class, call::get).getCause();
      assertEquals("request-1", e.requestId());
    }
    BrokerException e = assertThrows(BrokerException.class, () -> resolve(calls, REQUEST));
    assertEquals("request-2", e.requestId());
    assertEquals(2, bench.broker.requests.size());
  }

  @Test
  void aCallThatHangsHoldsAJoinedOneOnlyUntilItsOwnEnd() throws Exception {
    SharedCalls calls = calls(0);
    Future<Answer> first = beginJoined(calls, 0).get(0);
    BrokerException e = assertThrows(BrokerException.class,
        () -> calls.resolve(REQUEST, System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(200), ANY));
    assertTrue(e.unreachable(), e.describeFirst());
    assertFalse(first.isDone(), "the first call has not ended yet");
    release.countDown();
    assertEquals(List.of("canary-1"), first.get().values());
  }

  /** A connection that breaks, or a thread that is interrupted, concerns only the call itself. */
  @Test
  void othersMakeTheirOwnCallsIfTheFirstOneIsInterrupted() throws Exception {
    SharedCalls calls = calls(0);
    List<Future<Answer>> all = beginJoined(calls, 3);
    all.get(0).cancel(true);
    for (Future<Answer> call : all.subList(1, 4)) {
      assertTrue(call.get().values().get(0).startsWith("canary-"));
    }
    assertEquals(4, bench.broker.requests.size());
  }

  @Test
  void anInterruptOfAJoinedCallConcernsNoOther() throws Exception {
    SharedCalls calls = calls(0);
    List<Future<Answer>> all = beginJoined(calls, 2);
    all.get(2).cancel(true);
    await("one has left", () -> calls.waiting() == 2);
    release.countDown();
    assertEquals(List.of("canary-1"), all.get(0).get().values());
    assertEquals(List.of("canary-1"), all.get(1).get().values());
  }

  /** Calls that join another one later than the maximum age allows would get values that are too old. */
  @Test
  void aMaximumAgeIncludesTheTimeOfSharing() throws Exception {
    bench.close();
    bench = new Bench(dir);
    Map<String, String> settings = bench.settings();
    settings.put("max.age.ms", "10000");
    try (BrokerConnection fresh = BrokerConnection.acquire(Settings.parse(settings));
        SharedCalls calls = new SharedCalls(fresh, SharedCalls.HOLD)) {
      calls.resolve(CSPI, List.of(REFERENCE));
      assertEquals(Duration.newBuilder().setSeconds(9).setNanos(900_000_000).build(), bench.broker.requests.get(0).getMaxAge());
    }
    settings.put("max.age.ms", "0");
    try (BrokerConnection fresh = BrokerConnection.acquire(Settings.parse(settings));
        SharedCalls calls = new SharedCalls(fresh, SharedCalls.HOLD)) {
      calls.resolve(CSPI, List.of(REFERENCE));
      calls.resolve(CSPI, List.of(REFERENCE));
      assertEquals(3, bench.broker.requests.size(), "values that are read for each call are not shared");
    }
  }

  @Test
  void aCallCanBeJoinedOnlyForItsTime() throws Exception {
    SharedCalls calls = calls(HOUR);
    holdTheFirst();
    Future<Answer> first = threads.submit(() -> calls.resolve(REQUEST, broker.deadline(), 0));
    Bench.await(called);
    assertEquals(List.of("canary-1"), resolve(calls, REQUEST).values());
    release.countDown();
    assertEquals(List.of("canary-2"), first.get().values());
    assertEquals(2, bench.broker.requests.size());
    calls.close();
  }

  /** Connect restarts a connector at the end of its time-to-live, which must not be longer than it is. */
  @Test
  void theTimeLeftIsThatOfTheMomentAtWhichItIsReturned() throws Exception {
    bench.broker.answer = request -> ResolveResponse.newBuilder().setRequestId("request-" + versions.incrementAndGet())
        .putConfigs("k0", ResolvedConfig.newBuilder().setValue("canary").setTimeLeft(Duration.newBuilder().setNanos(300_000_000)).build()).build();
    try (SharedCalls calls = calls(HOUR)) {
      assertEquals(300, resolve(calls, REQUEST).timeLeftMs());
      await("a shared answer has less time left, and none at its end", () -> {
        try {
          Long left = resolve(calls, REQUEST).timeLeftMs();
          return left == null || left < 300 || bench.broker.requests.size() > 1;
        } catch (BrokerException e) {
          throw new IllegalStateException(e);
        }
      });
      await("an answer is not shared after the end of a secret", () -> calls.kept() == 0);
    }
  }

  /** A worker has many connections, and each would keep a thread. */
  @Test
  void theThreadEndsSomeTimeAfterTheLastCall() throws Exception {
    try (SharedCalls calls = calls(TimeUnit.MILLISECONDS.toNanos(1))) {
      resolve(calls, REQUEST);
      await("the thread has ended", () -> calls.threads() == 0);
      assertEquals(0, calls.kept());
      resolve(calls, REQUEST);
      await("another thread overwrites the values", () -> calls.kept() == 0);
    }
  }
}

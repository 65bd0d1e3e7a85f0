package io.github.secretbroker.connect;

import static io.github.secretbroker.connect.Bench.REFERENCE;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Duration;
import io.github.secretbroker.v1.ConfigError;
import io.github.secretbroker.v1.Notice;
import io.github.secretbroker.v1.ResolveRequest;
import io.github.secretbroker.v1.ResolveResponse;
import io.github.secretbroker.v1.ResolvedConfig;
import io.github.secretbroker.v1.WatchResponse;
import java.nio.file.Path;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.config.ConfigChangeCallback;
import org.apache.kafka.common.config.ConfigException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Tests KIP-297's subscriptions, which Kafka Connect does not use. */
class SubscriptionsTest {
  private static final String OTHER = "https://my-vault.vault.azure.net::other";

  @TempDir Path dir;
  private Bench bench;
  private SecretBrokerConfigProvider provider;
  private volatile String version = "1";
  private final BlockingQueue<Map<String, String>> calls = new LinkedBlockingQueue<>();
  private final ConfigChangeCallback callback = (path, data) -> calls.add(data.data());

  @BeforeEach
  void start() {
    bench = new Bench(dir);
    bench.broker.answer = this::answer;
    Map<String, String> settings = bench.settings();
    settings.put("timeout.ms", "1000");
    provider = bench.provider(settings);
  }

  @AfterEach
  void stop() {
    bench.close();
  }

  private ResolveResponse answer(ResolveRequest request) {
    ResolveResponse.Builder response = ResolveResponse.newBuilder().setRequestId("request-1");
    request.getConfigsMap().keySet().forEach(name -> response.putConfigs(name,
        ResolvedConfig.newBuilder().setValue(name + " canary-" + version).setVersion("v" + version).build()));
    return response.build();
  }

  private Map<String, String> nextCall() throws InterruptedException {
    return calls.poll(30, TimeUnit.SECONDS);
  }

  private void change(FakeBroker.Watch watch, String to) {
    version = to;
    watch.send(FollowTest.response(0, Notice.State.STATE_CHANGED, "v" + to));
  }

  @Test
  void aCallbackGetsTheValuesAtTheBeginAndAfterEachChange() throws Exception {
    provider.subscribe("cspi", Set.of(REFERENCE, OTHER), callback);
    assertEquals(Map.of(REFERENCE, "k0 canary-1", OTHER, "k1 canary-1"), nextCall());
    FakeBroker.Watch watch = bench.broker.nextWatch();
    assertEquals(Map.of("k0", "v1", "k1", "v1"), watch.request.getSets(0).getKnownVersionsMap());
    change(watch, "2");
    assertEquals(Map.of(REFERENCE, "k0 canary-2", OTHER, "k1 canary-2"), nextCall());
    assertEquals(FollowTest.READ, bench.broker.requests.get(1).getNotReadBefore());
  }

  private static WatchResponse generated(Notice.State state, String version) {
    return WatchResponse.newBuilder().addNotices(Notice.newBuilder().setConfig("k0").setState(state)
        .setVersion(version).setGenerated(true)).build();
  }

  /** A credential that was renewed is no change. */
  @Test
  void aGeneratedCredentialIsResolvedBeforeItsEnd() throws Exception {
    provider.subscribe("cspi", Set.of(REFERENCE), callback);
    nextCall();
    FakeBroker.Watch watch = bench.broker.nextWatch();
    watch.send(generated(Notice.State.STATE_EXPIRING, "v1"));
    SharedCallsTest.await("the call after the first notice", () -> bench.broker.requests.size() == 2);
    version = "2";
    watch.send(generated(Notice.State.STATE_EXPIRING, "v1"));
    assertEquals(Map.of(REFERENCE, "k0 canary-2"), nextCall());
    version = "3";
    watch.send(generated(Notice.State.STATE_CHANGED, "v3"));
    assertEquals(Map.of(REFERENCE, "k0 canary-3"), nextCall());
    assertTrue(bench.broker.requests.stream().noneMatch(ResolveRequest::hasNotReadBefore));
  }

  @Test
  void aSubscriptionNamesItsConnector() throws Exception {
    provider.subscribe("cspi/orders%2Fsink", Set.of(REFERENCE), callback);
    nextCall();
    FakeBroker.Watch watch = bench.broker.nextWatch();
    assertEquals("cspi", watch.request.getSets(0).getIntegrationId());
    assertEquals("orders/sink", watch.request.getSets(0).getConnector());
    change(watch, "2");
    assertEquals(Map.of(REFERENCE, "k0 canary-2"), nextCall());
    assertEquals("orders/sink", bench.broker.requests.get(1).getConnector());
    provider.unsubscribe("cspi/orders%2Fsink", Set.of(REFERENCE), callback);
    watch.awaitCancelled();
  }

  @Test
  void equalSubscriptionsAreOne() throws Exception {
    provider.subscribe("cspi", Set.of(REFERENCE), callback);
    provider.subscribe("cspi", Set.of(REFERENCE), callback);
    nextCall();
    FakeBroker.Watch watch = bench.broker.nextWatch();
    assertEquals(1, watch.request.getSetsCount());
    change(watch, "2");
    assertEquals(Map.of(REFERENCE, "k0 canary-2"), nextCall());
  }

  @Test
  void temporaryErrorsAreRetried() throws Exception {
    provider.subscribe("cspi", Set.of(REFERENCE), callback);
    nextCall();
    int[] refused = new int[1];
    bench.broker.answer = request -> refused[0]++ < 2
        ? ResolveResponse.newBuilder().setRequestId("request-2").putErrors("k0", ConfigError.newBuilder()
            .setReason("STORE_UNAVAILABLE").setRetryDelay(Duration.newBuilder().setSeconds(1)).build()).build()
        : answer(request);
    change(bench.broker.nextWatch(), "2");
    assertEquals(Map.of(REFERENCE, "k0 canary-2"), nextCall());
  }

  @Test
  void lastingErrorsAreRetriedWithoutAnotherNotice() throws Exception {
    provider.subscribe("cspi", Set.of(REFERENCE), callback);
    nextCall();
    int[] refused = new int[1];
    bench.broker.answer = request -> refused[0]++ < 1
        ? ResolveResponse.newBuilder().setRequestId("request-2")
            .putErrors("k0", ConfigError.newBuilder().setReason("ACCESS_DENIED").build()).build()
        : answer(request);
    change(bench.broker.nextWatch(), "2");
    assertEquals(Map.of(REFERENCE, "k0 canary-2"), nextCall());
  }

  @Test
  void otherErrorsEndNoSubscription() throws Exception {
    provider.subscribe("cspi", Set.of(REFERENCE), (path, data) -> {
      calls.add(data.data());
      throw new IllegalStateException("canary");
    });
    nextCall();
    FakeBroker.Watch watch = bench.broker.nextWatch();
    bench.broker.answer = request -> ResolveResponse.newBuilder().setRequestId("request-2")
        .putErrors("k0", ConfigError.newBuilder().setReason("JSON_KEY_NOT_FOUND").build()).build();
    change(watch, "2");
    SharedCallsTest.await("the failed call", () -> bench.broker.requests.size() >= 2);
    bench.broker.answer = this::answer;
    change(watch, "3");
    assertEquals(Map.of(REFERENCE, "k0 canary-3"), nextCall());
  }

  @Test
  void theLastUnsubscribeEndsTheStream() throws Exception {
    provider.subscribe("cspi", Set.of(REFERENCE), callback);
    nextCall();
    FakeBroker.Watch watch = bench.broker.nextWatch();
    provider.unsubscribe("cspi", Set.of(OTHER), callback);
    provider.unsubscribe("cspi", Set.of(REFERENCE), (path, data) -> { });
    change(watch, "2");
    assertEquals(Map.of(REFERENCE, "k0 canary-2"), nextCall(), "these are other subscriptions");
    provider.unsubscribe("cspi", Set.of(REFERENCE), callback);
    watch.awaitCancelled();

    provider.subscribe("cspi", Set.of(REFERENCE), callback);
    provider.subscribe("cspi", Set.of(OTHER), callback);
    watch = bench.broker.nextWatch();
    provider.unsubscribeAll();
    SharedCallsTest.await("no stream is open", () -> bench.broker.openWatches() == 0);
    assertFalse(calls.isEmpty());
  }

  @Test
  void whatCannotBeResolvedIsNotSubscribed() {
    bench.broker.answer = request -> ResolveResponse.newBuilder().setRequestId("request-2")
        .putErrors("k0", ConfigError.newBuilder().setReason("ACCESS_DENIED").build()).build();
    String text = assertThrows(ConfigException.class,
        () -> provider.subscribe("cspi", Set.of(REFERENCE), callback)).getMessage();
    assertTrue(text.contains("ACCESS_DENIED for " + REFERENCE), text);
    assertThrows(ConfigException.class, () -> provider.subscribe("https", Set.of(REFERENCE), callback));
    provider.close();
    assertThrows(ConfigException.class, () -> provider.subscribe("cspi", Set.of(REFERENCE), callback));
    provider.unsubscribe("cspi", Set.of(REFERENCE), callback);
    provider.unsubscribeAll();
    assertNull(calls.poll());
  }
}

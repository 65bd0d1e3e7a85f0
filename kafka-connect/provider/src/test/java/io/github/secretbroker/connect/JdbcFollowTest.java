package io.github.secretbroker.connect;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Duration;
import com.google.protobuf.Timestamp;
import io.github.secretbroker.v1.ConfigError;
import io.github.secretbroker.v1.Notice;
import io.github.secretbroker.v1.ResolveRequest;
import io.github.secretbroker.v1.ResolveResponse;
import io.github.secretbroker.v1.ResolvedConfig;
import io.github.secretbroker.v1.WatchResponse;
import io.github.secretbroker.v1.WatchSet;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.config.ConfigException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Tests what logins get after notices, and while no broker can be reached. */
class JdbcFollowTest {
  @TempDir Path dir;
  private Bench bench;
  private SecretBrokerJdbcCredentialsProvider provider;
  private volatile String version = "1";
  private volatile Duration timeLeft;

  @BeforeEach
  void start() {
    bench = new Bench(dir);
    bench.broker.answer = this::answer;
    provider = new SecretBrokerJdbcCredentialsProvider();
    provider.configure(JdbcCredentialsTest.configs(bench));
  }

  @AfterEach
  void stop() {
    provider.close();
    bench.close();
  }

  private ResolveResponse answer(ResolveRequest request) {
    ResolvedConfig.Builder password = ResolvedConfig.newBuilder().setValue("canary-" + version).setVersion("v" + version);
    if (timeLeft != null) {
      password.setTimeLeft(timeLeft);
    }
    return ResolveResponse.newBuilder().setRequestId("request-1")
        .putConfigs("k0", ResolvedConfig.newBuilder().setValue("sink").setVersion("v" + version).build())
        .putConfigs("k1", password.build()).build();
  }

  private String login() {
    return provider.getJdbcCredentials().getPassword();
  }

  private ResolveRequest lastRequest() {
    return bench.broker.requests.get(bench.broker.requests.size() - 1);
  }

  private static WatchResponse notice(Notice.State state, String version, Timestamp read) {
    return WatchResponse.newBuilder().addNotices(Notice.newBuilder().setConfig("k1").setState(state)
        .setVersion(version).setFetchTime(read)).build();
  }

  /** Logs in until the request has a time at which the notice's read began. */
  private void awaitRequestSince(Timestamp read) throws InterruptedException {
    SharedCallsTest.await("a login after the notice", () -> {
      login();
      return lastRequest().getNotReadBefore().equals(read);
    });
  }

  @Test
  void aLoginAfterANoticeHasItsVersionOrALaterOne() throws Exception {
    assertEquals("canary-1", login());
    assertFalse(lastRequest().hasNotReadBefore());
    FakeBroker.Watch watch = bench.broker.nextWatch();
    assertEquals(List.of(WatchSet.newBuilder().setIntegrationId("cspi")
        .putConfigs("k0", "https://v.vault.azure.net::db::user").putConfigs("k1", "https://v.vault.azure.net::db::password")
        .putKnownVersions("k0", "v1").putKnownVersions("k1", "v1").build()), watch.request.getSetsList());
    version = "2";
    watch.send(notice(Notice.State.STATE_CHANGED, "v2", FollowTest.READ));
    awaitRequestSince(FollowTest.READ);
    assertEquals("canary-2", login());
    assertEquals(FollowTest.READ, lastRequest().getNotReadBefore(), "whichever broker answers");
    // Another replica may send its notices later.
    watch.send(notice(Notice.State.STATE_CHANGED, "v2", FollowTest.READ.toBuilder().setNanos(4).build()));
    Timestamp later = FollowTest.READ.toBuilder().setNanos(6).build();
    watch.send(notice(Notice.State.STATE_CHANGED, "v3", later));
    awaitRequestSince(later);
  }

  private static WatchResponse generated(Notice.State state, String version) {
    return WatchResponse.newBuilder().addNotices(Notice.newBuilder().setConfig("k1").setState(state)
        .setVersion(version).setGenerated(true)).build();
  }

  /** Another broker would create a credential for a call with a time. */
  @Test
  void aGeneratedCredentialIsResolvedBeforeItsEndAndWithoutATime() throws Exception {
    login();
    FakeBroker.Watch watch = bench.broker.nextWatch();
    int logins = bench.broker.requests.size();
    version = "2";
    watch.send(generated(Notice.State.STATE_EXPIRING, "v1"));
    SharedCallsTest.await("a call after the notice", () -> bench.broker.requests.size() > logins);
    assertFalse(lastRequest().hasNotReadBefore());
    watch.send(generated(Notice.State.STATE_CHANGED, "v2"));
    watch.send(notice(Notice.State.STATE_CHANGED, "v2", FollowTest.READ));
    awaitRequestSince(FollowTest.READ);
    assertTrue(bench.broker.requests.stream().allMatch(
        request -> !request.hasNotReadBefore() || request.getNotReadBefore().equals(FollowTest.READ)));
    bench.broker.close();
    assertEquals("canary-2", login());
  }

  /** Notices of several references, and of a replica that is behind, arrive in any order. */
  @Test
  void theLatestTimeOfAllNoticesCounts() {
    Timestamp next = FollowTest.READ.toBuilder().setNanos(6).build();
    Timestamp second = Timestamp.newBuilder().setSeconds(FollowTest.READ.getSeconds() + 1).build();
    List<Timestamp> ascending = List.of(Timestamp.getDefaultInstance(), FollowTest.READ, next, second);
    for (int i = 0; i < ascending.size(); i++) {
      for (int j = 0; j < ascending.size(); j++) {
        assertEquals(i > j, JdbcLogins.later(ascending.get(i), ascending.get(j)), i + " " + j);
      }
    }
  }

  @Test
  void theStreamBeginsWithTheFirstLogin() throws Exception {
    provider.configure(JdbcCredentialsTest.configs(bench));
    login();
    login();
    bench.broker.nextWatch();
    assertEquals(1, bench.broker.watches());
  }

  /** Its clock may be behind that of the broker that sent the notice. */
  @Test
  void aBrokerThatRefusesTheTimeReadsTheStore() throws Exception {
    login();
    bench.broker.nextWatch().send(notice(Notice.State.STATE_CHANGED, "v2", FollowTest.READ));
    awaitRequestSince(FollowTest.READ);
    bench.broker.answer = request -> request.hasNotReadBefore()
        ? ResolveResponse.newBuilder().setRequestId("request-1")
            .putErrors("k0", ConfigError.newBuilder().setReason("INVALID_REQUEST").build()).build()
        : answer(request);
    version = "2";
    assertEquals("canary-2", login());
    assertEquals(Duration.getDefaultInstance(), lastRequest().getMaxAge());
  }

  @Test
  void whileNoBrokerCanBeReachedLoginsHaveTheLastCredentials() {
    login();
    bench.broker.close();
    assertEquals("canary-1", login());
    provider.refresh(); // they do not work
    assertTrue(assertThrows(ConfigException.class, this::login).getMessage().contains("SECRETBROKER_UNREACHABLE"));
  }

  /** A broker that answers decides. */
  @Test
  void anErrorOfTheBrokerIsNotReplacedByTheLastCredentials() {
    login();
    bench.broker.answer = request -> ResolveResponse.newBuilder().setRequestId("request-1")
        .putErrors("k1", ConfigError.newBuilder().setReason("ACCESS_DENIED").build()).build();
    assertTrue(assertThrows(ConfigException.class, this::login).getMessage().contains("ACCESS_DENIED"));
    bench.broker.close();
    assertTrue(assertThrows(ConfigException.class, this::login).getMessage().contains("SECRETBROKER_UNREACHABLE"));
  }

  /** A thread that is interrupted does not want to log in any more. */
  @Test
  void anInterruptedLoginHasNoCredentials() {
    login();
    Thread.currentThread().interrupt();
    try {
      assertThrows(ConfigException.class, this::login);
    } finally {
      assertTrue(Thread.interrupted());
    }
  }

  @Test
  void lostAccessEndsTheLastCredentials() throws Exception {
    login();
    FakeBroker.Watch watch = bench.broker.nextWatch();
    watch.send(notice(Notice.State.STATE_DENIED, "", Timestamp.getDefaultInstance()));
    watch.send(notice(Notice.State.STATE_CHANGED, "v2", FollowTest.READ));
    bench.broker.answer = request -> ResolveResponse.newBuilder().setRequestId("request-1")
        .putErrors("k1", ConfigError.newBuilder().setReason("ACCESS_DENIED").build()).build();
    SharedCallsTest.await("the notices have arrived", () -> {
      assertThrows(ConfigException.class, this::login);
      return lastRequest().hasNotReadBefore();
    });
    bench.broker.close();
    assertTrue(assertThrows(ConfigException.class, this::login).getMessage().contains("SECRETBROKER_UNREACHABLE"));
  }

  /** An answer on its way when access is lost is used once, and not kept. */
  @Test
  void accessLostDuringALoginEndsItsCredentials() throws Exception {
    List<String> references = List.of("https://v.vault.azure.net::db::user", "https://v.vault.azure.net::db::password");
    try (JdbcLogins logins = new JdbcLogins(BrokerConnection.acquire(Settings.parse(bench.settings())), Target.of("cspi"), references)) {
      logins.get(false);
      bench.broker.answer = request -> {
        logins.noticed(0, Notice.newBuilder().setState(Notice.State.STATE_DENIED).build());
        return answer(request);
      };
      logins.get(true); // not the answer of a call that is shared
      bench.broker.close();
      assertThrows(BrokerException.class, () -> logins.get(false));
    }
  }

  @Test
  void expiredCredentialsAreNotUsed() {
    timeLeft = Duration.newBuilder().setNanos(1_000_000).build();
    login();
    bench.broker.close();
    assertThrows(ConfigException.class, this::login);
  }

  @Test
  void closingEndsTheStream() throws Exception {
    login();
    FakeBroker.Watch watch = bench.broker.nextWatch();
    provider.close();
    watch.awaitCancelled();
  }

  /** Connectors need not close a credentials provider. */
  @Test
  void aDiscardedProviderEndsItsStream() throws Exception {
    login();
    FakeBroker.Watch watch = bench.broker.nextWatch();
    watch.send(WatchResponse.newBuilder().setComplete(true).build());
    Map<String, String> other = JdbcCredentialsTest.configs(bench);
    other.put("jdbc.credentials.provider.client.id", "other"); // another connection
    provider = new SecretBrokerJdbcCredentialsProvider();
    provider.configure(other);
    for (int i = 0; i < 300 && !watch.cancelled(); i++) { // ends before a broken stream would
      System.gc();
      Thread.sleep(10);
    }
    assertTrue(watch.cancelled(), "the stream has ended");
  }

  @Test
  void theMaximumAgeOfTheSettingsApplies() {
    Map<String, String> configs = JdbcCredentialsTest.configs(bench);
    configs.put("jdbc.credentials.provider.max.age.ms", "10000");
    provider.configure(configs);
    login();
    assertEquals(Duration.newBuilder().setSeconds(10).build(), lastRequest().getMaxAge());
  }
}

package io.github.secretbroker.connect;

import static io.github.secretbroker.connect.Bench.REFERENCE;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Duration;
import com.google.protobuf.Timestamp;
import io.github.secretbroker.v1.Notice;
import io.github.secretbroker.v1.WatchRequest;
import io.github.secretbroker.v1.WatchResponse;
import io.github.secretbroker.v1.WatchSet;
import io.grpc.Status;
import java.nio.file.Path;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Tests the stream that tells subscribers of changes: what it contains, how it ends and begins again. */
class FollowTest {
  static final Timestamp READ = Timestamp.newBuilder().setSeconds(1_800_000_000).setNanos(5).build();

  @TempDir Path dir;
  private Bench bench;
  private BrokerConnection broker;
  private final BlockingQueue<String> notices = new LinkedBlockingQueue<>();

  @BeforeEach
  void start() {
    bench = new Bench(dir);
    broker = BrokerConnection.acquire(Settings.parse(bench.settings()));
  }

  @AfterEach
  void stop() {
    broker.close();
    bench.close();
  }

  private Follower.Subscription follow(String integration, String version) {
    return broker.follower().follow(Target.of(integration), List.of(REFERENCE), List.of(version),
        (index, notice) -> notices.add(integration + " " + index + " " + notice.getState() + " " + notice.getVersion()));
  }

  static WatchResponse response(int set, Notice.State state, String version) {
    return WatchResponse.newBuilder().addNotices(notice(set, state, version)).build();
  }

  static Notice notice(int set, Notice.State state, String version) {
    return Notice.newBuilder().setSet(set).setConfig("k0").setState(state).setVersion(version).setFetchTime(READ).build();
  }

  private static WatchResponse complete(String version) {
    return WatchResponse.newBuilder().addNotices(notice(0, Notice.State.STATE_CURRENT, version)).setComplete(true).build();
  }

  private String nextNotice() throws InterruptedException {
    return notices.poll(30, TimeUnit.SECONDS);
  }

  private static WatchSet set(String integration, String version) {
    WatchSet.Builder set = WatchSet.newBuilder().setIntegrationId(integration).putConfigs("k0", REFERENCE);
    return (version.isEmpty() ? set : set.putKnownVersions("k0", version)).build();
  }

  @Test
  void aChangeReachesTheSubscriber() throws Exception {
    follow("cspi", "v1");
    FakeBroker.Watch watch = bench.broker.nextWatch();
    assertEquals(List.of(set("cspi", "v1")), watch.request.getSetsList());
    watch.send(complete("v1"));
    assertEquals("cspi 0 STATE_CURRENT v1", nextNotice());
    watch.send(response(0, Notice.State.STATE_CHANGED, "v2"));
    assertEquals("cspi 0 STATE_CHANGED v2", nextNotice());
  }

  /** A broker of another release, or a faulty one, does not disturb the others. */
  @Test
  void noticesThatConcernNoSubscriptionAreIgnored() throws Exception {
    follow("cspi", "");
    FakeBroker.Watch watch = bench.broker.nextWatch();
    assertEquals(List.of(set("cspi", "")), watch.request.getSetsList());
    watch.send(WatchResponse.newBuilder()
        .addNotices(notice(7, Notice.State.STATE_CHANGED, "v2"))
        .addNotices(notice(-1, Notice.State.STATE_CHANGED, "v2"))
        .addNotices(notice(0, Notice.State.STATE_CHANGED, "v2").toBuilder().setConfig("k9"))
        .addNotices(notice(0, Notice.State.STATE_CHANGED, "v2").toBuilder().setConfig("kx"))
        .addNotices(notice(0, Notice.State.STATE_CHANGED, "v2").toBuilder().setConfig(""))
        .build());
    watch.send(complete("v3"));
    assertEquals("cspi 0 STATE_CURRENT v3", nextNotice());
  }

  @Test
  void subscriptionsShareOneStreamWhichIsReplacedWithoutAGap() throws Exception {
    follow("one", "v1");
    Follower.Subscription two = follow("two", "w1");
    FakeBroker.Watch first = bench.broker.nextWatch();
    assertEquals(List.of(set("one", "v1"), set("two", "w1")), first.request.getSetsList());
    first.send(complete("v1"));
    first.send(response(1, Notice.State.STATE_CHANGED, "w2"));
    assertEquals("one 0 STATE_CURRENT v1", nextNotice());
    assertEquals("two 0 STATE_CHANGED w2", nextNotice());

    follow("three", "x1");
    FakeBroker.Watch second = bench.broker.nextWatch();
    assertEquals(List.of(set("one", "v1"), set("two", "w2"), set("three", "x1")), second.request.getSetsList());
    first.send(response(0, Notice.State.STATE_CHANGED, "v2"));
    assertEquals("one 0 STATE_CHANGED v2", nextNotice(), "the first stream is in use until the second is complete");
    assertFalse(first.cancelled());
    second.send(complete("v2"));
    assertEquals("one 0 STATE_CURRENT v2", nextNotice());
    first.awaitCancelled();

    two.close();
    FakeBroker.Watch third = bench.broker.nextWatch();
    assertEquals(List.of(set("one", "v2"), set("three", "x1")), third.request.getSetsList());
    third.send(complete("v2"));
    second.awaitCancelled();
    assertEquals(1, bench.broker.peers.size(), "connections");
  }

  @Test
  void theStreamEndsWithTheLastSubscription() throws Exception {
    Follower.Subscription subscription = follow("cspi", "v1");
    FakeBroker.Watch watch = bench.broker.nextWatch();
    watch.send(complete("v1"));
    subscription.close();
    subscription.close();
    watch.awaitCancelled();
  }

  @Test
  void theNextStreamHasTheVersionsThatWereTold() throws Exception {
    follow("cspi", "v1");
    FakeBroker.Watch first = bench.broker.nextWatch();
    first.send(response(0, Notice.State.STATE_CHANGED, "v2"));
    first.send(WatchResponse.newBuilder().setReconnectAfter(Duration.newBuilder().setNanos(1_000_000)).build());
    first.complete();
    FakeBroker.Watch second = bench.broker.nextWatch();
    assertEquals(List.of(set("cspi", "v2")), second.request.getSetsList());
    second.fail(Status.UNAVAILABLE);
    assertEquals(second.request, bench.broker.nextWatch().request);
  }

  @Test
  void aBrokerThatComesBackTellsWhatHasChanged() throws Exception {
    follow("cspi", "v1");
    bench.broker.nextWatch().send(complete("v1"));
    assertEquals("cspi 0 STATE_CURRENT v1", nextNotice());
    int port = bench.broker.port();
    bench.broker.close();
    bench.broker = new FakeBroker(bench.authority, bench.server, port);
    FakeBroker.Watch watch = bench.broker.nextWatch();
    assertEquals(List.of(set("cspi", "v1")), watch.request.getSetsList());
    watch.send(response(0, Notice.State.STATE_CHANGED, "v2"));
    assertEquals("cspi 0 STATE_CHANGED v2", nextNotice());
  }

  /** Of streams that end at once, few begin in a second, whatever the broker says about the wait. */
  @Test
  void thereIsNoBusyLoop() throws Exception {
    bench.broker.watched = watch -> {
      watch.send(complete("v1").toBuilder().setReconnectAfter(Duration.getDefaultInstance()).build());
      watch.complete();
    };
    long began = System.nanoTime();
    follow("cspi", "v1");
    for (int i = 0; i < 4; i++) {
      bench.broker.nextWatch();
    }
    long took = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began);
    assertTrue(took >= 100 + 200 + 400, "four streams began within " + took + " ms");
  }

  /** A broker, or a connection, that hangs without failing. */
  @Test
  void aStreamOnWhichNothingArrivesIsGivenUp() throws Exception {
    bench.broker.watched = watch -> {
      if (bench.broker.watches() > 1) {
        watch.send(complete("v1"));
      }
    };
    try (Follower follower = broker.follower(1_000)) {
      follower.follow(Target.of("cspi"), List.of(REFERENCE), List.of("v1"), (index, notice) -> notices.add(notice.getVersion()));
      bench.broker.nextWatch().awaitCancelled();
      assertEquals("v1", nextNotice());
    }
  }

  /** The store of one subscription hangs, so the broker cannot send all states. */
  @Test
  void aStreamThatIsNotCompleteIsUsedAfterATime() throws Exception {
    bench.broker.watched = watch -> watch.send(watch.request.getSetsCount() == 1
        ? complete("v1") : response(0, Notice.State.STATE_CURRENT, "v1"));
    try (Follower follower = broker.follower(2_000)) {
      Follower.Listener listener = (index, notice) -> notices.add(notice.getVersion());
      follower.follow(Target.of("cspi"), List.of(REFERENCE), List.of("v1"), listener);
      assertEquals("v1", nextNotice());
      follower.follow(Target.of("hangs"), List.of(REFERENCE), List.of(""), listener);
      SharedCallsTest.await("the second stream has replaced the first one", () ->
          bench.broker.lastWatch().request.getSetsCount() == 2 && !bench.broker.lastWatch().cancelled()
              && bench.broker.openWatches() == 1);
      bench.broker.lastWatch().send(response(0, Notice.State.STATE_CHANGED, "v2"));
      for (String version = nextNotice(); !"v2".equals(version); version = nextNotice()) {
        assertEquals("v1", version);
      }
    }
  }

  @Test
  void waitsHaveJitterAndGrow() {
    for (int i = 0; i < 1000; i++) {
      assertBetween(100, 200, Follower.backoff(0, 0));
      assertBetween(100, 200, Follower.backoff(-1, 0));
      assertBetween(3200, 6400, Follower.backoff(0, 5));
      assertBetween(15_000, 30_000, Follower.backoff(0, 1_000_000));
      assertBetween(5_100, 5_200, Follower.backoff(5_000, 0));
    }
    assertTrue(java.util.stream.LongStream.range(0, 100).map(i -> Follower.backoff(0, 5)).distinct().count() > 10);
  }

  private static void assertBetween(long least, long most, long value) {
    assertTrue(least <= value && value <= most, value + " ms");
  }

  @Test
  void aSubscriberThatFailsDisturbsNoOther() throws Exception {
    broker.follower().follow(Target.of("one"), List.of(REFERENCE), List.of(""), (index, notice) -> {
      throw new IllegalStateException("canary");
    });
    follow("two", "");
    FakeBroker.Watch watch = bench.broker.nextWatch();
    watch.send(response(0, Notice.State.STATE_CHANGED, "v2"));
    watch.send(response(1, Notice.State.STATE_CHANGED, "w2"));
    assertEquals("two 0 STATE_CHANGED w2", nextNotice());
  }

  @Test
  void theNumberOfReferencesIsLimited() throws Exception {
    List<String> many = Collections.nCopies(999, REFERENCE);
    Follower.Subscription subscription = broker.follower().follow(Target.of("one"), many, Collections.nCopies(999, ""), (i, n) -> { });
    assertNotNull(subscription);
    assertNotNull(follow("two", ""));
    assertNull(follow("three", ""));
    subscription.close();
    SharedCallsTest.await("there is room again", () -> follow("three", "") != null);
  }

  /** The thread belongs to the connection. */
  @Test
  void closingTheConnectionEndsTheStreamAndTheThread() throws Exception {
    Map<String, String> settings = bench.settings();
    settings.put("client.id", "closes");
    BrokerConnection closes = BrokerConnection.acquire(Settings.parse(settings));
    closes.follower().follow(Target.of("cspi"), List.of(REFERENCE), List.of(""), (i, n) -> { });
    FakeBroker.Watch watch = bench.broker.nextWatch();
    assertTrue(threads() > 0);
    closes.close();
    watch.awaitCancelled();
    SharedCallsTest.await("the thread has ended", () -> threads() == 0);
  }

  private static long threads() {
    return Thread.getAllStackTraces().keySet().stream()
        .filter(thread -> thread.getName().equals("secretbroker-follow") && thread.isAlive()).count();
  }
}

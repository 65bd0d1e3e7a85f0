package io.github.secretbroker.connect;

import static io.github.secretbroker.connect.Bench.REFERENCE;
import static io.github.secretbroker.connect.Bench.failure;
import static io.github.secretbroker.connect.Bench.get;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.config.AbstractConfig;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Tests how long calls wait while no broker can be reached, and that one that is back is found. */
class OutageTest {
  /** As many as a worker has. */
  private static final int THREADS = 8;
  private static final int CALLS = 170;

  @TempDir Path dir;
  private Bench bench;
  private SecretBrokerConfigProvider provider;
  private int port;
  private Map<String, String> settings;
  private final ExecutorService threads = Executors.newFixedThreadPool(THREADS);

  @BeforeEach
  void start() {
    bench = new Bench(dir);
    provider = bench.provider();
    port = bench.broker.port();
    settings = bench.settings();
    get(provider, REFERENCE);
    bench.broker.close();
  }

  @AfterEach
  void stop() {
    threads.shutdownNow();
    bench.close();
  }

  private void startBroker() {
    bench.broker = new FakeBroker(bench.authority, bench.server, port);
  }

  /** Makes all calls of a worker whose tasks start, and returns the time in milliseconds. */
  private long failAll() throws Exception {
    long began = System.nanoTime();
    List<Future<String>> calls = new ArrayList<>();
    for (int i = 0; i < CALLS; i++) {
      calls.add(threads.submit(() -> failure(provider, REFERENCE)));
    }
    for (Future<String> call : calls) {
      String text = call.get();
      assertTrue(text.contains("SECRETBROKER_UNREACHABLE") && text.contains("localhost:" + port), text);
    }
    return TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began);
  }

  /** Case many-tasks: with two seconds for each call it took 43 s. */
  @Test
  void manyTasksWithARefusedPort() throws Exception {
    long took = failAll();
    assertTrue(took < 15_000, "it took " + took + " ms"); // 2 s for the first calls, and 2 s for the burst
    startBroker();
    assertEquals("value of " + REFERENCE, get(provider, REFERENCE).data().get(REFERENCE));
  }

  /** Case many-tasks, if attempts hang. Connections are accepted by a server that does not answer. */
  @Test
  void manyTasksWithAServerThatHangs() throws Exception {
    long took;
    try (ServerSocket hanging = new ServerSocket(port, 500, InetAddress.getLoopbackAddress())) {
      took = failAll();
    }
    assertTrue(took < 21_000, "it took " + took + " ms"); // 2 s + 2 s + 170 / 8 * 0.1 s
    startBroker();
    awaitAnswer();
  }

  /** Case many-tasks, if packets are dropped. */
  @Test
  void manyTasksWithABlackHole() throws Exception {
    long took;
    try (BlackHole hole = new BlackHole(port)) {
      took = failAll();
    }
    assertTrue(took < 21_000, "it took " + took + " ms");
    startBroker();
    awaitAnswer();
  }

  /** Of calls that have to share two seconds, one may fail while it connects; the next one may not. */
  private void awaitAnswer() {
    for (int attempts = 1; ; attempts++) {
      try {
        get(provider, REFERENCE);
        return;
      } catch (ConfigException e) {
        assertTrue(attempts < 20, e.getMessage());
      }
    }
  }

  /** A port whose connection attempts get no answer, because its queue is full. */
  private static final class BlackHole implements AutoCloseable {
    private final ServerSocket server;
    private final List<Socket> queue = new ArrayList<>();

    BlackHole(int port) throws IOException {
      server = new ServerSocket(port, 1, InetAddress.getLoopbackAddress());
      try {
        while (queue.size() < 50) {
          Socket socket = new Socket();
          queue.add(socket);
          socket.connect(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 200);
        }
        throw new IllegalStateException("the queue has no end");
      } catch (SocketTimeoutException e) {
        // full
      }
    }

    @Override
    public void close() throws IOException {
      for (Socket socket : queue) {
        socket.close();
      }
      server.close();
    }
  }

  /** Each call that begins after the broker is back succeeds, also amid others that fail. */
  @Test
  void noCallFailsBecauseOfAnEarlierAttempt() throws Exception {
    failure(provider, REFERENCE);
    for (int round = 0; round < 3; round++) {
      long[] back = new long[1];
      CountDownLatch started = new CountDownLatch(1);
      List<Future<Integer>> callers = new ArrayList<>();
      Callable<Integer> caller = () -> callUntilAnswered(started, back);
      for (int i = 0; i < THREADS; i++) {
        callers.add(threads.submit(caller));
      }
      failure(provider, REFERENCE); // the others are at it
      startBroker();
      back[0] = System.nanoTime();
      started.countDown();
      for (Future<Integer> c : callers) {
        c.get();
      }
      bench.broker.close();
      failure(provider, REFERENCE);
    }
  }

  /** Calls until there is an answer. Fails if a call began after the broker was back and failed. */
  private int callUntilAnswered(CountDownLatch started, long[] back) {
    for (int calls = 1; ; calls++) {
      boolean up = started.getCount() == 0;
      long began = System.nanoTime();
      try {
        get(provider, REFERENCE);
        return calls;
      } catch (ConfigException e) {
        assertFalse(up && began - back[0] > 0, "a call failed though the broker was back: " + e.getMessage());
      }
    }
  }

  /** An operator's restart is such a call. */
  @Test
  void aSingleCallWaitsTwoSeconds() throws Exception {
    failure(provider, REFERENCE);
    await(Outage.GAP * 2);
    Future<?> start = threads.submit(() -> {
      await(TimeUnit.SECONDS.toNanos(1));
      startBroker();
    });
    get(provider, REFERENCE);
    start.get();
  }

  private static void await(long nanos) {
    long end = System.nanoTime() + nanos;
    while (System.nanoTime() - end < 0) {
      java.util.concurrent.locks.LockSupport.parkNanos(end - System.nanoTime());
    }
  }

  /** Packets of an established connection may be lost while a new connection works. */
  @Test
  void aConnectionThatDoesNotAnswerIsReplaced() {
    startBroker();
    CountDownLatch release = new CountDownLatch(1);
    String[] first = new String[1];
    bench.broker.answer = request -> {
      String peer = bench.broker.peers.get(bench.broker.peers.size() - 1);
      first[0] = first[0] == null ? peer : first[0];
      if (peer.equals(first[0])) {
        Bench.await(release);
      }
      return FakeBroker.echo(request);
    };
    assertTrue(failure(provider, REFERENCE).contains("no answer in time"));
    awaitAnswer(); // on a busy machine, a handshake may take longer than the first attempt may
    assertTrue(bench.broker.peers.size() > 1, "connections");
    release.countDown();
  }

  /** A call that was not answered in time may have waited for a store: the broker is not down. */
  @Test
  void aStoreThatWasTooSlowOnceHasTheWholeTimeoutAgain() {
    startBroker();
    settings.put("timeout.ms", "4000");
    SecretBrokerConfigProvider patient = bench.provider(settings);
    CountDownLatch release = new CountDownLatch(1);
    bench.broker.answer = request -> {
      Bench.await(release);
      return FakeBroker.echo(request);
    };
    assertTrue(failure(patient, REFERENCE).contains("no answer in time"));
    release.countDown();
    bench.broker.answer = request -> {
      await(TimeUnit.MILLISECONDS.toNanos(2_500));
      return FakeBroker.echo(request);
    };
    get(patient, REFERENCE);
  }

  @Test
  void burstsShareTwoSeconds() {
    long ms = TimeUnit.MILLISECONDS.toNanos(1);
    Outage outage = new Outage();
    long t0 = System.nanoTime();
    assertFalse(outage.arrive(t0));
    outage.leave(t0 + 100 * ms, true);
    assertTrue(outage.arrive(t0 + 200 * ms));
    assertEquals(t0 + 2000 * ms, outage.burstEnd(), "the burst of the first call");
    assertEquals(t0 + 2000 * ms, outage.end(t0 + 200 * ms));
    assertEquals(t0 + 3400 * ms, outage.end(t0 + 2400 * ms), "the first probe");
    assertEquals(t0 + 3400 * ms, outage.end(t0 + 2400 * ms), "another call waits for the same probe");
    assertEquals(t0 + 2910 * ms, outage.end(t0 + 2410 * ms), "the second probe");
    for (int i = 0; i < 10; i++) {
      outage.end(t0 + (2420 + i) * ms);
    }
    assertEquals(t0 + 2540 * ms, outage.end(t0 + 2440 * ms), "a later probe");
    outage.attempted(t0 + 2400 * ms, t0 + 2401 * ms);
    assertEquals(t0 + 4401 * ms, outage.end(t0 + 2500 * ms), "attempts fail, so another one may succeed");
    outage.attempted(t0 + 2500 * ms, t0 + 4500 * ms);
    assertEquals(t0 + 4401 * ms, outage.end(t0 + 2500 * ms), "a timeout of an attempt is no answer");
    outage.leave(t0 + 3000 * ms, true);
    assertTrue(outage.arrive(t0 + 3400 * ms));
    assertEquals(t0 + 2000 * ms, outage.burstEnd(), "the same burst");
    outage.leave(t0 + 3500 * ms, false);
    assertFalse(outage.arrive(t0 + 4001 * ms));
    assertEquals(t0 + 6001 * ms, outage.burstEnd(), "a new burst");

    outage.leave(t0 + 7000 * ms, true);
    outage.arrive(t0 + 7050 * ms);
    outage.end(t0 + 7050 * ms);
    assertEquals(t0 + 7551 * ms, outage.end(t0 + 7051 * ms), "the second probe");
    outage.leave(t0 + 7100 * ms, true);
    outage.arrive(t0 + 7300 * ms);
    assertEquals(t0 + 8300 * ms, outage.end(t0 + 7300 * ms), "the first probe after a pause");
    assertEquals(t0 + 6001 * ms, outage.burstEnd(), "still the same burst");
  }

  /** The first call of a process waits if the process's own configuration needs it. */
  @Test
  void theStartWaitsLonger() throws Exception {
    settings.put("timeout.ms", "500");
    settings.put("startup.timeout.ms", "1500");
    Settings parsed = Settings.parse(settings);
    try (BrokerConnection connection = BrokerConnection.acquire(parsed)) {
      long began = System.nanoTime();
      assertThrows(BrokerException.class, () -> connection.resolveAtStartup(Target.of("cspi"), List.of(REFERENCE)));
      long took = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began);
      assertTrue(took >= 900, "it took " + took + " ms");
    }
    settings.put("startup.timeout.ms", "60000");
    try (BrokerConnection connection = BrokerConnection.acquire(Settings.parse(settings))) {
      Future<Answer> call = threads.submit(() -> connection.resolveAtStartup(Target.of("cspi"), List.of(REFERENCE)));
      await(TimeUnit.MILLISECONDS.toNanos(1500));
      assertFalse(call.isDone());
      startBroker();
      assertEquals(List.of("value of " + REFERENCE), call.get().values());
    }
  }

  /** Kafka's own class resolves the configuration of a process. */
  @Test
  void theConfigurationOfTheProcessIsToldApart() {
    assertFalse(SecretBrokerConfigProvider.ownConfiguration());
    boolean[] own = new boolean[1];
    ConfigDef definition = new ConfigDef().define("x", ConfigDef.Type.STRING, ConfigDef.NO_DEFAULT_VALUE,
        (name, value) -> own[0] = SecretBrokerConfigProvider.ownConfiguration(), ConfigDef.Importance.LOW, "");
    new AbstractConfig(definition, Map.of("x", "y"));
    assertTrue(own[0]);
  }
}

package io.github.secretbroker.connect.worker;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.regex.Pattern;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;

/** Tests a real worker with many tasks while its broker is down. */
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class OutageIT {
  private static final int CONNECTORS = 30;
  private static final int TASKS = 10;
  private static final Duration ALL = Duration.ofSeconds(180);
  private static final String VERSION = System.getProperty("kafka.version");

  private static Path dir;
  private static Broker broker;
  private static KafkaServer kafka;
  private static Worker worker;

  @BeforeAll
  static void start() {
    dir = World.fresh(Path.of(System.getProperty("work.dir") + "-outage"));
    broker = new Broker(World.created(dir.resolve("broker")));
    broker.set("connect-tasks", "canary");
    kafka = new KafkaServer(World.created(dir.resolve("kafka")));
    worker = new Worker(World.created(dir.resolve("worker")), kafka, broker.params(),
        Map.of("plugin.path", Plugins.path(dir.resolve("plugins"))), 1024);
    worker.start();
    for (int i = 0; i < CONNECTORS; i++) {
      assertEquals(201, worker.create("c" + i, Map.of("connector.class", TasksConnector.class.getName(),
          "tasks.max", String.valueOf(TASKS), TasksConnector.SECRET, Broker.placeholder("connect-tasks"))).status());
    }
    awaitAll("RUNNING");
  }

  @AfterAll
  static void stop() {
    for (AutoCloseable c : new AutoCloseable[] {worker, kafka, broker}) {
      try {
        if (c != null) {
          c.close();
        }
      } catch (Exception e) {
        throw new IllegalStateException(e);
      }
    }
  }

  /** Waits until all connectors and tasks have that state. Returns the milliseconds. */
  private static long awaitAll(String state) {
    long began = System.nanoTime();
    int[] found = new int[1];
    try {
      Child.await("all are " + state, ALL, () -> {
        found[0] = count(state);
        return found[0] == CONNECTORS * (1 + TASKS);
      });
    } catch (AssertionError e) {
      throw new AssertionError(e.getMessage() + "; of them are " + found[0]);
    }
    return (System.nanoTime() - began) / 1_000_000;
  }

  private static int count(String state) {
    Worker.Answer answer = worker.get("/connectors?expand=status");
    int found = 0;
    if (answer.status() == 200) {
      for (JsonNode connector : answer.body()) {
        found += connector.at("/status/connector/state").asText().equals(state) ? 1 : 0;
        for (JsonNode task : connector.at("/status/tasks")) {
          found += task.path("state").asText().equals(state) ? 1 : 0;
        }
      }
    }
    return found;
  }

  private static String state(String name) {
    return worker.status(name).at("/connector/state").asText();
  }

  private void failAndRecover(String how, Runnable outage, Runnable end) {
    worker.stop();
    broker.stop();
    outage.run();
    int log = worker.log().length();
    long began = System.nanoTime();
    worker.start();
    long ready = (System.nanoTime() - began) / 1_000_000;
    long took = awaitAll("FAILED");
    System.out.println("Kafka " + VERSION + ", " + how + ": " + CONNECTORS + " connectors with " + TASKS
        + " tasks each have failed " + took + " ms after the worker was ready (" + ready + " ms)");
    assertTrue(took < 45_000, "it took " + took + " ms");
    assertTrue(worker.status("c0").at("/connector/trace").asText().contains("SECRETBROKER_UNREACHABLE"));
    Pattern left = Pattern.compile("poll timeout has expired|sending LeaveGroup request");
    assertFalse(left.matcher(worker.log().substring(log)).find(), "the worker left its group");

    end.run();
    broker.start();
    for (int i = 0; i < CONNECTORS; i++) {
      worker.restart("c" + i, true);
    }
    System.out.println("Kafka " + VERSION + ", " + how + ": all run " + awaitAll("RUNNING") + " ms after their restart");
  }

  /** Case many-tasks. */
  @Test
  @Order(1)
  void manyTasksWithARefusedPort() {
    failAndRecover("refused port", () -> { }, () -> { });
  }

  /** Case many-tasks. */
  @Test
  @Order(2)
  void manyTasksWithABlackHole() {
    BlackHole[] hole = new BlackHole[1];
    failAndRecover("black hole", () -> hole[0] = new BlackHole(broker.port()), () -> hole[0].close());
  }

  /** Connect's own behaviour, which the README describes. */
  @Test
  @Order(3)
  void aFailedRestartRemainsRestarting() {
    broker.stop();
    worker.restart("c0", false);
    Pattern completed = Pattern.compile("Completed plan .*connectorName='c0', onlyFailed=false");
    Child.await("the restart has failed", ALL, () -> completed.matcher(worker.log()).find());
    Child.await("no further state", ALL, new AfterMillis(2000));
    assertEquals("RESTARTING", state("c0"));
    broker.start();
    worker.restart("c0", true);
    awaitAll("RUNNING");
  }

  /** A placeholder in the worker's own properties is needed for the start. */
  @Test
  @Order(4)
  void theWorkersOwnConfigurationWaitsForTheBroker() {
    broker.set("connect-client", "own-client-id");
    broker.stop();
    Map<String, String> own = Map.of("client.id", Broker.placeholder("connect-client"), "group.id", "others",
        "config.storage.topic", "others-configs", "offset.storage.topic", "others-offsets", "status.storage.topic", "others-status");
    try (Worker other = new Worker(World.created(dir.resolve("own")), kafka, broker.params(), own, 512)) {
      other.launch();
      Child.await("the worker waits", ALL, () -> other.log().contains("Waiting at most"));
      Child.await("the timeout of a call is over", ALL, new AfterMillis(7000));
      broker.start();
      other.awaitReady();
      assertTrue(other.log().contains("own-client-id"), "the worker's client.id");
    }
  }
}

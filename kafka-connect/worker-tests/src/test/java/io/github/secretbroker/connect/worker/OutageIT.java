package io.github.secretbroker.connect.worker;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.regex.Pattern;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;
import org.junit.jupiter.api.extension.ExtendWith;

/**
 * Tests a real worker with many tasks while its broker is down. The number of connectors and tasks is that
 * of worker-tests/pom.xml, or of make test-connect-outage. It is the last class, and leaves them to the worker.
 */
@ExtendWith(World.Shared.class)
@Order(4)
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class OutageIT {
  private static final int CONNECTORS = Integer.getInteger("outage.connectors");
  private static final int TASKS = Integer.getInteger("outage.tasks");
  /** The time if each call waited for two seconds: eight threads make them. */
  private static final long TWO_SECONDS_EACH = CONNECTORS * (1 + TASKS) * 2_000L / 8;
  private static final Duration ALL = Duration.ofSeconds(180);
  private static final String VERSION = System.getProperty("kafka.version");

  private static Path dir;
  private static Broker broker;
  private static KafkaServer kafka;
  private static Worker worker;

  @BeforeAll
  static void start(World world) {
    dir = World.created(world.dir.resolve("outage"));
    broker = world.broker;
    kafka = world.kafka;
    worker = world.worker;
    broker.set("connect-tasks", "idle");
    for (int i = 0; i < CONNECTORS; i++) {
      assertEquals(201, worker.create("c" + i, Map.of("connector.class", TasksConnector.class.getName(),
          "tasks.max", String.valueOf(TASKS), TasksConnector.SECRET, Broker.placeholder("connect-tasks"))).status());
    }
    awaitAll("RUNNING");
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
      for (int i = 0; i < CONNECTORS; i++) {
        JsonNode connector = answer.body().path("c" + i);
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
    assertTrue(took < TWO_SECONDS_EACH * 6 / 10, "it took " + took + " ms");
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
    Map<String, String> params = broker.params();
    params.put("timeout.ms", "1000");
    Map<String, String> own = Map.of("plugin.discovery", Worker.MANIFESTS,
        "client.id", Broker.placeholder("connect-client"), "group.id", "others",
        "config.storage.topic", "others-configs", "offset.storage.topic", "others-offsets", "status.storage.topic", "others-status");
    try (Worker other = new Worker(World.created(dir.resolve("own")), kafka, params, own, 512)) {
      other.launch();
      Child.await("the worker waits", ALL, () -> other.log().contains("Waiting at most"));
      Child.await("the timeout of a call is over", ALL, new AfterMillis(2500));
      broker.start();
      other.awaitReady();
      assertTrue(other.log().contains("own-client-id"), "the worker's client.id");
    }
  }
}

package io.github.secretbroker.connect.worker;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;
import org.junit.jupiter.api.extension.ExtendWith;

/**
 * Tests a real distributed worker whose connectors get their secrets from a real broker. All passwords
 * contain the word "canary"; the last test searches for it in everything that a worker writes.
 */
@ExtendWith(World.Shared.class)
@Order(1)
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class ConnectWorkerIT {
  private static final Duration SOON = Duration.ofSeconds(30);
  private static final String VERSION = System.getProperty("kafka.version");
  private static final String TABLE = "SELECT name FROM people ORDER BY name";

  private static World world;
  private static Worker worker;

  @BeforeAll
  static void start(World shared) {
    world = shared;
    worker = world.worker;
  }

  /** The class of Kafka's FileStream source, or a replacement. */
  private static final String FILE_SOURCE = System.getProperty("file.source");

  private static Map<String, String> fileSource(String file, String topic) {
    Map<String, String> config = new HashMap<>();
    config.put("connector.class", FILE_SOURCE);
    config.put("tasks.max", "1");
    config.put("file", file);
    config.put("topic", topic);
    return config;
  }

  private static Map<String, String> jdbcSink(String topic, String user, String password) {
    Map<String, String> config = new HashMap<>();
    config.put("connector.class", "io.debezium.connector.jdbc.JdbcSinkConnector");
    config.put("tasks.max", "1");
    config.put("topics", topic);
    config.put("connection.url", world.postgres.url());
    config.put("connection.username", user);
    config.put("connection.password", password);
    config.put("collection.name.format", "people");
    config.put("schema.evolution", "basic");
    config.put("primary.key.mode", "none");
    config.put("value.converter", "org.apache.kafka.connect.json.JsonConverter");
    config.put("consumer.override.metadata.max.age.ms", "1000");
    config.put("errors.retry.timeout", "0");
    return config;
  }

  /** Returns a line that the sink converts to a row. */
  private static String person(String name) {
    return "{\"schema\":{\"type\":\"struct\",\"fields\":[{\"field\":\"name\",\"type\":\"string\",\"optional\":false}]},"
        + "\"payload\":{\"name\":\"" + name + "\"}}";
  }

  private static void awaitRecord(String topic, String part) {
    Child.await(part + " in " + topic, SOON, () ->
        world.kafka.hasTopic(topic) && world.kafka.read(topic).stream().anyMatch(r -> r.contains(part)));
  }

  private static void awaitPerson(String name) {
    Child.await(name + " in the table", SOON, () -> world.postgres.column(TABLE).contains(name));
  }

  /** Returns all audit records of a call. */
  private static String audited(String requestId) {
    return world.broker.audit().lines().filter(l -> l.contains(requestId)).reduce("", (a, b) -> a + b + "\n");
  }

  @Test
  @Order(1)
  void theWorkerFindsTheProvider() {
    // The REST API does not list config providers.
    assertTrue(worker.log().contains("Added plugin 'io.github.secretbroker.connect.SecretBrokerConfigProvider'"));
    assertFalse(worker.log().contains("NoClassDefFoundError"), "classes are missing");
  }

  @Test
  @Order(2)
  void recordsMoveFromAFileToADatabase() {
    world.postgres.execute("CREATE USER sink PASSWORD 'sink-canary-1'; GRANT ALL ON SCHEMA public TO sink");
    world.broker.set("connect-db", "{\"user\":\"sink\",\"password\":\"sink-canary-1\"}");
    Path file = world.source("people.txt");
    world.broker.set("connect-file", file.toString());
    World.append(file, person("Ada"));

    assertEquals(201, worker.create("source", fileSource(Broker.placeholder("connect-file"), "people")).status());
    assertEquals(201, worker.create("sink",
        jdbcSink("people", Broker.placeholder("connect-db::user"), Broker.placeholder("connect-db::password"))).status());
    worker.awaitState("source", "RUNNING");
    worker.awaitState("sink", "RUNNING");
    awaitRecord("people", "Ada");
    awaitPerson("Ada");

    String audit = world.broker.audit();
    assertTrue(audit.contains("spiffe://example.org/connect/worker-1") && audit.contains("connect-db"), audit);
    // The API returns the configuration as its owner wrote it.
    assertEquals(Broker.placeholder("connect-db::password"),
        worker.get("/connectors/sink").body().path("config").path("connection.password").asText());
    assertTrue(world.kafka.read("connect-configs").stream().anyMatch(r -> r.contains("${secretbroker:")), "placeholders are what is stored");
  }

  @Test
  @Order(3)
  void aRestartTakesTheRotatedPassword() {
    world.postgres.execute("ALTER USER sink PASSWORD 'sink-canary-2'");
    world.postgres.disconnect("sink");
    world.broker.set("connect-db", "{\"user\":\"sink\",\"password\":\"sink-canary-2\"}");
    World.append(world.source("people.txt"), person("Grace"));
    // The task's pool cannot log in any more. The broker's cache entry expires after a second.
    Child.await("the broker's cache has ended", SOON, new AfterMillis(1500));
    worker.restart("sink");
    worker.awaitState("sink", "RUNNING");
    awaitPerson("Grace");
  }

  @Test
  @Order(4)
  void whatIsDeniedOrMissingFailsTheConnectorAndSaysWhy() {
    Map<String, String> reasons = Map.of(
        "not-granted", "ACCESS_DENIED", "connect-missing", "SECRET_NOT_FOUND", "connect-db::nope", "JSON_KEY_NOT_FOUND");
    reasons.forEach((reference, reason) -> {
      String name = "fails-" + reason.toLowerCase(Locale.ROOT).replace('_', '-');
      Worker.Answer answer = worker.create(name, fileSource(Broker.placeholder(reference), "never"));
      String text = answer.text();
      assertTrue(answer.status() >= 400, name + ": " + answer.status());
      assertTrue(text.contains(reason), text);
      assertTrue(text.contains(Broker.VAULT + "::" + reference), text);
      Matcher request = Pattern.compile("request ([0-9a-zA-Z-]+)\\)").matcher(text);
      assertTrue(request.find(), text);
      assertTrue(audited(request.group(1)).contains(reason), "the audit has the request of: " + text);
    });
    assertFalse(world.kafka.hasTopic("never"), "no connector ran without its secret");
  }

  @Test
  @Order(5)
  void aSecretThatGoesAwayFailsTheRestart() {
    Path file = world.source("goes.txt");
    World.append(file, "first");
    world.broker.set("connect-goes", file.toString());
    assertEquals(201, worker.create("goes", fileSource(Broker.placeholder("connect-goes"), "goes")).status());
    worker.awaitState("goes", "RUNNING");
    awaitRecord("goes", "first");
    world.broker.set("connect-goes", "");
    Child.await("the broker's cache has ended", SOON, new AfterMillis(1500));
    worker.restart("goes");
    // Connect writes this only to its log; the REST API continues to return RESTARTING.
    Child.await("the restart fails", SOON, () -> worker.log().contains("Task 'goes-0' restart failed"));
    assertTrue(worker.log().contains("UNUSABLE_VALUE for " + Broker.VAULT + "::connect-goes: the value is empty"));
    System.out.println("Kafka " + VERSION + ": after a failed restart the API says " + worker.status("goes"));
    worker.delete("goes");
  }

  @Test
  @Order(6)
  void aBrokerThatRestartsIsNotNoticed() {
    world.broker.stop();
    Thread start = new Thread(world.broker::start);
    start.start();
    worker.restart("sink");
    World.append(world.source("people.txt"), person("Barbara"));
    worker.awaitState("sink", "RUNNING");
    awaitPerson("Barbara");
    join(start);
  }

  private static void join(Thread thread) {
    try {
      thread.join();
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }

  @Test
  @Order(7)
  void aRenewedCertificateIsUsedWithoutARestart() {
    world.copy("other-worker.pem", "tls.crt");
    world.copy("other-worker-key.pem", "tls.key");
    world.broker.restart();
    worker.restart("sink");
    Child.await("a call with the new certificate", SOON, () ->
        world.broker.audit().contains("spiffe://example.org/other/worker-2"));
    worker.awaitState("sink", "RUNNING");
    World.append(world.source("people.txt"), person("Edith"));
    awaitPerson("Edith");
  }

  @Test
  @Order(8)
  void theWorkerStartsWhileTheBrokerIsDown() {
    worker.stop();
    world.broker.stop();
    long began = System.nanoTime();
    worker.start();
    worker.awaitState("sink", "FAILED");
    worker.awaitState("source", "FAILED");
    String trace = worker.status("sink").path("connector").path("trace").asText();
    assertTrue(trace.contains("SECRETBROKER_UNREACHABLE"), trace);
    assertTrue(trace.contains(world.broker.address()), trace);
    System.out.println("Kafka " + VERSION + ": with the broker down, connectors have failed " + (System.nanoTime() - began) / 1_000_000 + " ms after the worker's start");
    // Connect does not restart them; an operator or a monitoring system has to.
    world.broker.start();
    worker.restart("source");
    worker.restart("sink");
    worker.awaitState("source", "RUNNING");
    worker.awaitState("sink", "RUNNING");
    World.append(world.source("people.txt"), person("Radia"));
    awaitPerson("Radia");
  }

  /**
   * Checks which value the task has after restarts caused by a time-to-live. Connect restarts the
   * connector. It restarts the tasks only if it detects that their configuration has changed, which
   * requires an earlier comparison (KAFKA-9228).
   */
  @Test
  @Order(9)
  void restartsByTimeToLive() {
    List<Path> files = List.of(world.source("one.txt"), world.source("two.txt"), world.source("three.txt"));
    files.forEach(file -> World.append(file, file.getFileName() + " created"));
    Instant end = inSeconds(8);
    world.broker.set("connect-ends", files.get(0).toString(), end.toString());
    assertEquals(201, worker.create("ends", fileSource(Broker.placeholder("connect-ends"), "ends")).status());
    worker.awaitState("ends", "RUNNING");
    awaitRecord("ends", "one.txt created");
    assertEquals("one.txt", read(files, "before any restart"));

    Instant secondEnd = inSeconds(16);
    world.broker.set("connect-ends", files.get(1).toString(), secondEnd.toString()); // rotated in good time
    Child.await("the first restart", SOON, () -> Instant.now().isAfter(end) && count(worker.log(), "Creating connector ends ") == 2);
    Child.await("the first restart has settled", SOON, new AfterMillis(2000));
    String first = read(files, "after the first restart");
    world.broker.set("connect-ends", files.get(2).toString());
    Child.await("the second restart", SOON, () -> Instant.now().isAfter(secondEnd) && count(worker.log(), "Creating connector ends ") == 3);
    Child.await("the second restart has settled", SOON, new AfterMillis(2000));
    String second = read(files, "after the second restart");
    worker.restart("ends");
    worker.awaitState("ends", "RUNNING");
    Child.await("a restart with tasks has settled", SOON, new AfterMillis(1000));
    assertEquals("three.txt", read(files, "after a restart with tasks"));
    System.out.println("Kafka " + VERSION + ": after restarts by TTL the task had " + first + " and then " + second);
    assertEquals("one.txt", first, "a connector's first restart by TTL does not reach its task");
    assertEquals("three.txt", second, "the second one does");
  }

  private static Instant inSeconds(int n) {
    return Instant.now().plusSeconds(n).truncatedTo(ChronoUnit.SECONDS);
  }

  /** Returns the file that the task reads, which shows the value that it received. */
  private static String read(List<Path> files, String when) {
    files.forEach(file -> World.append(file, file.getFileName() + " " + when));
    String[] found = new String[1];
    Child.await("a record " + when, SOON, () -> {
      found[0] = world.kafka.read("ends").stream().filter(r -> r.endsWith(when)).findFirst().orElse(null);
      return found[0] != null;
    });
    return found[0].strip().split(" ")[0];
  }

  private static int count(String text, String part) {
    return text.split(Pattern.quote(part), -1).length - 1;
  }

  @Test
  @Order(10)
  void metricsAreInJmx() {
    Map<String, Object> own = worker.beans("secretbroker.connect:type=config-provider,client-id=secretbroker,*");
    assertTrue(own.entrySet().stream().anyMatch(e -> e.getKey().endsWith(" resolve-total") && (long) e.getValue() > 0), own.toString());
  }

  /** Up to 4.3, Connect returns resolved values to callers of the validation, except those of passwords. */
  @Test
  @Order(11)
  void validationShowsValuesThatAreNoPasswords() {
    Worker.Answer answer = worker.put("/connector-plugins/" + FILE_SOURCE + "/config/validate",
        withName("checked", fileSource(Broker.placeholder("connect-file"), "people")));
    assertEquals(200, answer.status(), answer.text());
    boolean shown = answer.text().contains(world.source("people.txt").toString());
    System.out.println("Kafka " + VERSION + ": validation answers with " + (shown ? "the value" : "the placeholder"));
    assertEquals(!VERSION.startsWith("4.4."), shown, "the README says which versions return values");
    Worker.Answer sink = worker.put("/connector-plugins/io.debezium.connector.jdbc.JdbcSinkConnector/config/validate", withName("checked",
        jdbcSink("people", Broker.placeholder("connect-db::user"), Broker.placeholder("connect-db::password"))));
    assertEquals(200, sink.status(), sink.text());
    assertFalse(leaks(sink.text()), "a password");
  }

  /**
   * Connect resolves the configuration of a connector several times, and that of each task twice. It made 23
   * calls before calls for the same references shared one.
   */
  @Test
  @Order(12)
  void theTasksOfAConnectorShareCalls() {
    world.broker.set("connect-ten", "ten-canary");
    assertEquals(201, worker.create("ten", Map.of("connector.class", TasksConnector.class.getName(),
        "tasks.max", "10", TasksConnector.SECRET, Broker.placeholder("connect-ten"))).status());
    Child.await("ten tasks run", SOON, () -> {
      JsonNode status = worker.status("ten");
      return status != null && count(status.toString(), "RUNNING") == 11;
    });
    long calls = world.broker.audit().lines().filter(l -> l.contains("connect-ten")).count();
    System.out.println("Kafka " + VERSION + ": a connector with 10 tasks has made " + calls + " calls to start");
    assertTrue(calls > 0 && calls < 23, calls + " calls");
    worker.delete("ten");
  }

  private static Map<String, String> withName(String name, Map<String, String> config) {
    config.put("name", name);
    return config;
  }

  @Test
  @Order(99)
  void noPasswordIsAnywhere() {
    for (String path : List.of("/connectors?expand=info&expand=status", "/connectors/sink", "/connectors/sink/config",
        "/connectors/sink/tasks", "/connectors/sink/status", "/connectors/sink/tasks/0/status")) {
      worker.get(path);
    }
    for (String answer : Worker.ANSWERS) {
      assertFalse(leaks(answer), answer);
    }
    for (String topic : world.kafka.topics()) {
      for (String record : world.kafka.read(topic)) {
        assertFalse(leaks(record), topic + ": " + record);
      }
    }
    for (String line : worker.log().split("\n")) {
      assertFalse(leaks(line), line);
    }
    assertFalse(leaks(world.broker.audit()));
    world.kafka.files().forEach(file -> assertFalse(leaks(Child.readBytes(file)), file.toString()));
  }

  /** Reports whether text contains a password, as text or as hexadecimal digits. */
  private static boolean leaks(String text) {
    return text.contains("canary") || text.toLowerCase(Locale.ROOT).contains("63616e617279");
  }
}

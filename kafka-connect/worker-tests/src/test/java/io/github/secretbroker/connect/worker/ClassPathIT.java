package io.github.secretbroker.connect.worker;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** Tests the jar on the class path of the processes that load config providers only from there. */
class ClassPathIT {
  private static final Duration SOON = Duration.ofSeconds(60);

  private static Path dir;
  private static Broker broker;
  private static KafkaServer kafka;
  private static String classPath;

  @BeforeAll
  static void start() throws IOException {
    dir = World.fresh(Path.of(System.getProperty("work.dir") + "-classpath"));
    broker = new Broker(World.created(dir.resolve("broker")));
    try (Stream<Path> jars = Files.list(Path.of(System.getProperty("provider.plugin")))) {
      classPath = java.io.File.pathSeparator + jars.filter(f -> f.toString().endsWith(".jar")).findFirst().orElseThrow();
    }
    broker.set("connect-rack", "rack-of-the-vault");
    kafka = new KafkaServer(World.created(dir.resolve("kafka")), providers() + "broker.rack="
        + Broker.placeholder("connect-rack") + "\n", classPath);
    broker.set("connect-bootstrap", kafka.bootstrap());
  }

  @AfterAll
  static void stop() {
    if (kafka != null) {
      kafka.close();
    }
    broker.close();
  }

  private static String providers() {
    StringBuilder text = new StringBuilder("config.providers=secretbroker\n"
        + "config.providers.secretbroker.class=io.github.secretbroker.connect.SecretBrokerConfigProvider\n");
    broker.params().forEach((name, value) ->
        text.append("config.providers.secretbroker.param.").append(name).append('=').append(value).append('\n'));
    return text.toString();
  }

  @Test
  void theDirectoryHasOnlyTheRelocatedJar() throws IOException {
    try (Stream<Path> files = Files.list(Path.of(System.getProperty("provider.plugin")))) {
      List<String> names = files.map(f -> f.getFileName().toString()).toList();
      assertEquals(1, names.size(), names.toString());
      assertTrue(names.get(0).matches("secretbroker-kafka-connect-[0-9.]+(-SNAPSHOT)?\\.jar"), names.toString());
    }
  }

  @Test
  void aKafkaServer() {
    assertEquals(List.of("rack-of-the-vault"), kafka.racks());
  }

  @Test
  void aKafkaClient() {
    produce("client-topic", "x");
    Path settings = dir.resolve("client.properties");
    Child.write(settings, providers() + "bootstrap.servers=" + Broker.placeholder("connect-bootstrap") + "\n");
    String classes = java.io.File.pathSeparator + Path.of(System.getProperty("test.classes"));
    Path log = dir.resolve("client.log");
    Child.run(log, dir, KafkaServer.java(classPath + classes, ClientMain.class.getName(), 128, settings.toString()));
    assertTrue(Child.read(log).contains("client-topic"), Child.read(log));
  }

  /** MirrorMaker 2 in its dedicated mode. Both clusters are the same Kafka. */
  @Test
  void mirrorMaker() {
    Assumptions.assumeTrue(
        Files.exists(Path.of(System.getProperty("kafka.libs"), "connect-mirror-" + System.getProperty("kafka.version") + ".jar")),
        "Maven Central has no MirrorMaker of this version");
    produce("mirrored", "a record");
    Path settings = dir.resolve("mm2.properties");
    Child.write(settings, providers() + String.join("\n",
        "clusters=a,b",
        "a.bootstrap.servers=" + Broker.placeholder("connect-bootstrap"),
        "b.bootstrap.servers=" + Broker.placeholder("connect-bootstrap"),
        "a->b.enabled=true",
        "a->b.topics=mirrored",
        "b->a.enabled=false",
        "emit.heartbeats.enabled=false",
        "emit.checkpoints.enabled=false",
        "replication.factor=1",
        "offset.storage.replication.factor=1",
        "status.storage.replication.factor=1",
        "config.storage.replication.factor=1",
        "offset-syncs.topic.replication.factor=1",
        ""));
    try (Child mirror = Child.start(dir.resolve("mm2.log"), dir,
        KafkaServer.java(classPath, "org.apache.kafka.connect.mirror.MirrorMaker", 512, settings.toString()))) {
      mirror.awaitReady("the mirrored record", SOON, () ->
          kafka.hasTopic("a.mirrored") && kafka.read("a.mirrored").stream().anyMatch(r -> r.endsWith("a record")));
    }
  }

  private static void produce(String topic, String value) {
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(
        Map.of("bootstrap.servers", kafka.bootstrap()), new StringSerializer(), new StringSerializer())) {
      producer.send(new ProducerRecord<>(topic, value)).get();
    } catch (Exception e) {
      throw new IllegalStateException(e);
    }
  }
}

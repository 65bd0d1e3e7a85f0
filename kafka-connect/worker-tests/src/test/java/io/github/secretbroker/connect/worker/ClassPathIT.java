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
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** Tests the jar on the class path of the processes that load config providers only from there. */
@ExtendWith(World.Shared.class)
@Order(2)
class ClassPathIT {
  private static final Duration SOON = Duration.ofSeconds(60);

  private static Path dir;
  private static Broker broker;
  private static KafkaServer kafka;
  private static String classPath;

  @BeforeAll
  static void start(World world) {
    dir = World.created(world.dir.resolve("classpath"));
    broker = world.broker;
    kafka = world.kafka;
    classPath = Plugins.classPath();
    broker.set("connect-bootstrap", kafka.bootstrap());
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
    assertEquals(List.of(World.RACK), kafka.racks());
  }

  @Test
  void aKafkaClient() {
    produce("client-topic", "x");
    Path settings = dir.resolve("client.properties");
    Child.write(settings, Plugins.providers(broker) + "bootstrap.servers=" + Broker.placeholder("connect-bootstrap") + "\n");
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
    Child.write(settings, Plugins.providers(broker) + String.join("\n",
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

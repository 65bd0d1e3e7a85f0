package io.github.secretbroker.connect.worker;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** A Kafka server in KRaft mode, run from the artifacts in Maven's repository. */
final class KafkaServer implements AutoCloseable {
  private final Path dir;
  private final int port = Child.freePort();
  private final Child server;

  KafkaServer(Path dir) {
    this(dir, "", "");
  }

  /**
   * @param settings further lines of its properties
   * @param classPath is appended to that of Kafka, after a separator
   */
  KafkaServer(Path dir, String settings, String classPath) {
    this.dir = dir;
    int controller = Child.freePort();
    Path config = dir.resolve("server.properties");
    Child.write(config, String.join("\n",
        "process.roles=broker,controller",
        "node.id=1",
        "controller.quorum.voters=1@127.0.0.1:" + controller,
        "listeners=PLAINTEXT://127.0.0.1:" + port + ",CONTROLLER://127.0.0.1:" + controller,
        "advertised.listeners=PLAINTEXT://127.0.0.1:" + port,
        "controller.listener.names=CONTROLLER",
        "inter.broker.listener.name=PLAINTEXT",
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs=" + dir.resolve("data"),
        "offsets.topic.replication.factor=1",
        "offsets.topic.num.partitions=1",
        "transaction.state.log.replication.factor=1",
        "transaction.state.log.min.isr=1",
        "group.initial.rebalance.delay.ms=0",
        settings,
        ""));
    Child.run(dir.resolve("format.log"), dir, java(classPath, "kafka.tools.StorageTool", 128,
        "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", config.toString()));
    server = Child.start(dir.resolve("server.log"), dir, java(classPath, "kafka.Kafka", 256, config.toString()));
    server.awaitReady("Kafka", Duration.ofSeconds(60), () -> server.output().contains("Kafka Server started"));
  }

  String bootstrap() {
    return "127.0.0.1:" + port;
  }

  /** Returns a command that runs a class of the Kafka under test and logs to its output. */
  static List<String> java(String main, int megabytes, String... args) {
    return java("", main, megabytes, args);
  }

  /** @param classPath is appended to that of Kafka, after a separator */
  static List<String> java(String classPath, String main, int megabytes, String... args) {
    List<String> command = new ArrayList<>(List.of(
        Path.of(System.getProperty("java.home"), "bin", "java").toString(),
        "-Xmx" + megabytes + "m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
        "-Dlog4j2.configurationFile=" + resource("worker-log4j2.properties"),
        "-Dlog4j.configuration=file:" + resource("worker-log4j.properties"),
        "-cp", System.getProperty("kafka.libs") + "/*" + classPath, main));
    command.addAll(List.of(args));
    return command;
  }

  private static Path resource(String name) {
    try {
      return Path.of(KafkaServer.class.getResource("/" + name).toURI());
    } catch (java.net.URISyntaxException e) {
      throw new IllegalStateException(e);
    }
  }

  /** Returns all records of a topic, with keys and values as text. */
  List<String> read(String topic) {
    Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap());
    try (KafkaConsumer<byte[], byte[]> consumer =
        new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
          .map(p -> new TopicPartition(topic, p.partition())).toList();
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
      List<String> records = new ArrayList<>();
      while (partitions.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
        for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(100))) {
          records.add(text(r.key()) + " " + text(r.value()));
        }
      }
      return records;
    }
  }

  private static String text(byte[] bytes) {
    return bytes == null ? "" : new String(bytes, StandardCharsets.UTF_8);
  }

  /** Returns the racks of all servers. */
  List<String> racks() {
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap()))) {
      return admin.describeCluster().nodes().get().stream().map(node -> node.rack()).toList();
    } catch (Exception e) {
      throw new IllegalStateException(e);
    }
  }

  List<String> topics() {
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap()))) {
      return List.copyOf(admin.listTopics().names().get());
    } catch (Exception e) {
      throw new IllegalStateException(e);
    }
  }

  boolean hasTopic(String topic) {
    return topics().contains(topic);
  }

  /** Returns all files of Kafka on disk, including its log. */
  Stream<Path> files() {
    try {
      return Files.walk(dir).filter(Files::isRegularFile);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Override
  public void close() {
    server.close();
  }
}

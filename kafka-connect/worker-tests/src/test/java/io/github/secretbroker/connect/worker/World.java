package io.github.secretbroker.connect.worker;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.Map;
import java.util.stream.Stream;

/** One Kafka, worker, broker and PostgreSQL for all tests, because starting them takes half a minute. */
final class World implements AutoCloseable {
  final Path dir = fresh(Path.of(System.getProperty("work.dir")));
  final Broker broker = new Broker(created(dir.resolve("broker")));
  final Postgres postgres = new Postgres();
  final KafkaServer kafka = new KafkaServer(created(dir.resolve("kafka")));
  final Worker worker = new Worker(created(dir.resolve("worker")), kafka, params(),
      Map.of("plugin.path", Plugins.path(dir.resolve("plugins"))), 512);

  World() {
    worker.start();
  }

  private Map<String, String> params() {
    copy("worker.pem", "tls.crt");
    copy("worker-key.pem", "tls.key");
    Map<String, String> params = broker.params();
    params.put("tls.cert.file", dir.resolve("tls.crt").toString());
    params.put("tls.key.file", dir.resolve("tls.key").toString());
    params.put("timeout.ms", "8000"); // machines that test are busy
    return params;
  }

  /** Replaces the worker's certificate, as a renewal does. */
  void copy(String from, String to) {
    Child.write(dir.resolve(to), Child.read(broker.file(from)));
  }

  Path source(String name) {
    return created(dir.resolve("sources")).resolve(name);
  }

  static void append(Path file, String line) {
    try {
      Files.writeString(file, line + "\n", java.nio.file.StandardOpenOption.CREATE, java.nio.file.StandardOpenOption.APPEND);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  static Path created(Path dir) {
    try {
      return Files.createDirectories(dir);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Creates an empty directory. */
  static Path fresh(Path dir) {
    try {
      if (Files.exists(dir)) {
        try (Stream<Path> old = Files.walk(dir)) {
          for (Path file : old.sorted(Comparator.reverseOrder()).toList()) {
            Files.delete(file);
          }
        }
      }
      return Files.createDirectories(dir);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Override
  public void close() {
    worker.close();
    kafka.close();
    postgres.close();
    broker.close();
  }
}

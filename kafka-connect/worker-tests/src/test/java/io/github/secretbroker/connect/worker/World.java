package io.github.secretbroker.connect.worker;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.ParameterContext;
import org.junit.jupiter.api.extension.ParameterResolver;

/**
 * One Kafka, worker, broker and PostgreSQL for the tests of all classes, because starting them takes half a
 * minute. The Kafka server also has the provider on its class path, and a placeholder in its properties.
 */
final class World implements AutoCloseable {
  /** The value of the placeholder in the properties of the Kafka server. */
  static final String RACK = "rack-of-the-vault";

  final Path dir = fresh(Path.of(System.getProperty("work.dir")));
  final Broker broker = new Broker(created(dir.resolve("broker")));
  final Postgres postgres = new Postgres();
  final KafkaServer kafka = startKafka();
  final Worker worker = new Worker(created(dir.resolve("worker")), kafka, params(),
      Map.of("plugin.path", Plugins.path(dir.resolve("plugins"))), 1024);

  private World() {
    worker.start();
  }

  /** Passes the world to the tests. It is closed after the last test of all classes. */
  static final class Shared implements ParameterResolver {
    @Override
    public boolean supportsParameter(ParameterContext parameter, ExtensionContext context) {
      return parameter.getParameter().getType() == World.class;
    }

    @Override
    public Object resolveParameter(ParameterContext parameter, ExtensionContext context) {
      return context.getRoot().getStore(ExtensionContext.Namespace.GLOBAL)
          .getOrComputeIfAbsent(World.class, key -> new World(), World.class);
    }
  }

  private KafkaServer startKafka() {
    broker.set("connect-rack", RACK);
    return new KafkaServer(created(dir.resolve("kafka")),
        Plugins.providers(broker) + "broker.rack=" + Broker.placeholder("connect-rack") + "\n", Plugins.classPath());
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

package io.github.secretbroker.connect.worker;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import java.util.stream.Stream;

/** The connectors of these tests, as a plugin. */
final class Plugins {
  private static final List<Class<?>> CLASSES =
      List.of(TasksConnector.class, TasksConnector.IdleTask.class, LinesConnector.class, LinesConnector.LinesTask.class);

  private Plugins() {}

  /** Writes the plugin into a directory, and returns a plugin.path with it and all other plugins. */
  static String path(Path dir) {
    try (JarOutputStream out = new JarOutputStream(Files.newOutputStream(World.created(dir.resolve("tests")).resolve("tests.jar")))) {
      for (Class<?> c : CLASSES) {
        String name = c.getName().replace('.', '/') + ".class";
        out.putNextEntry(new JarEntry(name));
        try (InputStream in = c.getResourceAsStream("/" + name)) {
          in.transferTo(out);
        }
      }
      out.putNextEntry(new JarEntry("META-INF/services/org.apache.kafka.connect.source.SourceConnector"));
      out.write((TasksConnector.class.getName() + "\n" + LinesConnector.class.getName() + "\n").getBytes(StandardCharsets.UTF_8));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return System.getProperty("kafka.plugins") + "," + dir;
  }

  /** Returns the jar of the provider after a separator, to be appended to a class path. */
  static String classPath() {
    try (Stream<Path> jars = Files.list(Path.of(System.getProperty("provider.plugin")))) {
      return java.io.File.pathSeparator + jars.filter(f -> f.toString().endsWith(".jar")).findFirst().orElseThrow();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Returns the properties with which a process uses the provider. */
  static String providers(Broker broker) {
    StringBuilder text = new StringBuilder("config.providers=secretbroker\n"
        + "config.providers.secretbroker.class=io.github.secretbroker.connect.SecretBrokerConfigProvider\n");
    broker.params().forEach((name, value) ->
        text.append("config.providers.secretbroker.param.").append(name).append('=').append(value).append('\n'));
    return text.toString();
  }
}

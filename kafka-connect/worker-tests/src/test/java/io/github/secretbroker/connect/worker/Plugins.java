package io.github.secretbroker.connect.worker;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;

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
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return System.getProperty("kafka.plugins") + "," + dir;
  }
}

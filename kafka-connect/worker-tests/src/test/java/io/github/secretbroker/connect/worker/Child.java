package io.github.secretbroker.connect.worker;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;

/** A process that a test starts. Its output goes to a file. */
final class Child implements AutoCloseable {
  private final Process process;
  final Path log;

  private Child(Process process, Path log) {
    this.process = process;
    this.log = log;
  }

  static Child start(Path log, Path dir, List<String> command) {
    try {
      Files.createDirectories(log.getParent());
      return new Child(
          new ProcessBuilder(command)
              .directory(dir.toFile())
              .redirectErrorStream(true)
              .redirectOutput(ProcessBuilder.Redirect.appendTo(log.toFile()))
              .start(),
          log);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Runs a command and waits until it exits. */
  static void run(Path log, Path dir, List<String> command) {
    try (Child child = start(log, dir, command)) {
      if (!child.process.waitFor(60, TimeUnit.SECONDS) || child.process.exitValue() != 0) {
        throw new IllegalStateException(command.get(0) + " failed: " + child.output());
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException(e);
    }
  }

  String output() {
    return read(log);
  }

  static String read(Path file) {
    try {
      return Files.exists(file) ? new String(Files.readAllBytes(file), StandardCharsets.UTF_8) : "";
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Returns the bytes of a file, each as one character. */
  static String readBytes(Path file) {
    try {
      return new String(Files.readAllBytes(file), StandardCharsets.ISO_8859_1);
    } catch (IOException e) {
      return ""; // gone by now
    }
  }

  static void write(Path file, String text) {
    try {
      Files.createDirectories(file.getParent());
      Path part = file.resolveSibling(file.getFileName() + ".part");
      Files.writeString(part, text);
      Files.move(part, file, java.nio.file.StandardCopyOption.REPLACE_EXISTING);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /**
   * Waits until the condition is true, checking it ten times a second. The timeout counts checks
   * instead of time, so a machine that pauses for a while does not make a test fail.
   */
  static void await(String what, Duration most, BooleanSupplier holds) {
    for (long looks = most.toMillis() / 100; !holds.getAsBoolean(); looks--) {
      if (looks <= 0) {
        throw new AssertionError("not within " + most.toSeconds() + " s: " + what);
      }
      pause();
    }
  }

  static void pause() {
    try {
      Thread.sleep(100);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException(e);
    }
  }

  /** Like {@link #await}, but fails immediately, with the output, if the process has exited. */
  void awaitReady(String what, Duration most, BooleanSupplier holds) {
    try {
      await(what, most, () -> {
        if (!process.isAlive()) {
          throw new IllegalStateException(what + ": the process has ended:\n" + tail());
        }
        return holds.getAsBoolean();
      });
    } catch (AssertionError e) {
      throw new AssertionError(e.getMessage() + "\n" + tail());
    }
  }

  String tail() {
    String text = output();
    return text.substring(Math.max(0, text.length() - 4000));
  }

  long pid() {
    return process.pid();
  }

  @Override
  public void close() {
    process.destroy();
    try {
      if (!process.waitFor(20, TimeUnit.SECONDS)) {
        process.destroyForcibly().waitFor();
      }
    } catch (InterruptedException e) {
      process.destroyForcibly();
      Thread.currentThread().interrupt();
    }
  }

  /** Returns a port on which no process listens. */
  static int freePort() {
    try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      return socket.getLocalPort();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

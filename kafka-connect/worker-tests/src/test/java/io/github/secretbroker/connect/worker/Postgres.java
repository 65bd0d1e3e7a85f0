package io.github.secretbroker.connect.worker;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;

/** A PostgreSQL server that requires passwords. It does not run as root; root starts it as "postgres". */
final class Postgres implements AutoCloseable {
  private static final String ADMIN = "admin-of-the-test";

  private final int port = Child.freePort();
  private final Child server;
  private final Path dir;

  Postgres() {
    Path bin = binaries();
    try {
      // Not in the build directory, which that user may not be able to enter.
      dir = Files.createTempDirectory("worker-tests-postgres");
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    Path data = dir.resolve("data");
    Child.write(dir.resolve("pw"), ADMIN);
    if (root()) {
      Child.run(dir.resolve("chown.log"), dir, List.of("chown", "-R", "postgres", dir.toString()));
    }
    Child.run(dir.resolve("initdb.log"), dir, unprivileged(bin.resolve("initdb").toString(), "-D", data.toString(),
        "-U", "postgres", "--auth=scram-sha-256", "--pwfile=" + dir.resolve("pw"), "--no-sync", "-E", "UTF8", "--locale=C"));
    server = Child.start(dir.resolve("server.log"), dir, unprivileged(bin.resolve("postgres").toString(), "-D", data.toString(),
        "-p", String.valueOf(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
        "-c", "fsync=off"));
    server.awaitReady("PostgreSQL", Duration.ofSeconds(30), () -> {
      try (Connection c = DriverManager.getConnection(url(), "postgres", ADMIN)) {
        return true;
      } catch (SQLException e) {
        return false;
      }
    });
  }

  private static Path binaries() {
    try (var found = Files.newDirectoryStream(Path.of("/usr/lib/postgresql"), "*")) {
      for (Path version : found) {
        if (Files.isExecutable(version.resolve("bin/initdb"))) {
          return version.resolve("bin");
        }
      }
    } catch (IOException e) {
      // reported below
    }
    throw new IllegalStateException("there is no PostgreSQL in /usr/lib/postgresql; install the package postgresql");
  }

  private static boolean root() {
    return System.getProperty("user.name").equals("root");
  }

  private static List<String> unprivileged(String... command) {
    List<String> full = new ArrayList<>();
    if (root()) {
      full.addAll(List.of("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"));
    }
    full.addAll(List.of(command));
    return full;
  }

  String url() {
    return "jdbc:postgresql://127.0.0.1:" + port + "/postgres";
  }

  void execute(String sql) {
    try (Connection c = DriverManager.getConnection(url(), "postgres", ADMIN); Statement s = c.createStatement()) {
      s.execute(sql);
    } catch (SQLException e) {
      throw new IllegalStateException(e);
    }
  }

  /** Closes all other connections, which a change of the password does not do. */
  void disconnect(String user) {
    execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '" + user + "'");
  }

  /** Returns one column of all rows; empty if the table does not exist yet. */
  List<String> column(String sql) {
    try (Connection c = DriverManager.getConnection(url(), "postgres", ADMIN);
        Statement s = c.createStatement(); ResultSet r = s.executeQuery(sql)) {
      List<String> rows = new ArrayList<>();
      while (r.next()) {
        rows.add(r.getString(1));
      }
      return rows;
    } catch (SQLException e) {
      return List.of();
    }
  }

  @Override
  public void close() {
    server.close();
    try (Stream<Path> files = Files.walk(dir)) {
      for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
        Files.delete(file);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

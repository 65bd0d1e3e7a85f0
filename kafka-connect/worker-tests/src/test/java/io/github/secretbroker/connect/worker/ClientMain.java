package io.github.secretbroker.connect.worker;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;

/** A Kafka client whose configuration contains placeholders (KIP-421). Runs in its own process. */
final class ClientMain {
  private ClientMain() {}

  /** Lists the topics. */
  public static void main(String[] args) throws Exception {
    Properties settings = new Properties();
    try (var in = Files.newInputStream(Path.of(args[0]))) {
      settings.load(in);
    }
    try (Admin admin = Admin.create(settings)) {
      System.out.println("topics: " + admin.listTopics().names().get());
    }
  }
}

package io.github.secretbroker.connect;

import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.config.ConfigData;
import org.apache.kafka.common.config.ConfigException;

/** A fake broker, the TLS files of a worker, and providers. */
final class Bench implements AutoCloseable {
  static final String WORKER = "spiffe://example.org/connect/worker-1";
  static final String REFERENCE = "https://my-vault.vault.azure.net::db-secret::password";

  final Path dir;
  final TestAuthority authority = new TestAuthority("authority");
  final TestAuthority.Issued server = authority.server("localhost");
  FakeBroker broker;
  private final List<SecretBrokerConfigProvider> providers = new java.util.ArrayList<>();

  Bench(Path dir) {
    this.dir = dir;
    TestAuthority.writePem(file("ca.pem"), authority.certificate);
    TestAuthority.writePem(file("tls.crt"), file("tls.key"), authority.client(WORKER));
    broker = new FakeBroker(authority, server, 0);
    warmUp();
  }

  private static boolean warm;

  /** The first call in a process loads thousands of classes, which takes seconds on a busy machine. */
  private void warmUp() {
    if (warm) {
      return;
    }
    Map<String, String> settings = settings();
    settings.put("timeout.ms", "9000");
    SecretBrokerConfigProvider provider = new SecretBrokerConfigProvider();
    provider.configure(settings);
    get(provider, REFERENCE);
    provider.close();
    int port = broker.port();
    broker.close();
    broker = new FakeBroker(authority, server, port); // has no requests
    warm = true;
  }

  Path file(String name) {
    return dir.resolve(name);
  }

  Map<String, String> settings() {
    Map<String, String> settings = new HashMap<>();
    settings.put("addresses", "localhost:" + broker.port());
    settings.put("tls.ca.file", file("ca.pem").toString());
    settings.put("tls.cert.file", file("tls.crt").toString());
    settings.put("tls.key.file", file("tls.key").toString());
    settings.put("timeout.ms", "2000");
    return settings;
  }

  SecretBrokerConfigProvider provider() {
    return provider(settings());
  }

  SecretBrokerConfigProvider provider(Map<String, String> settings) {
    SecretBrokerConfigProvider provider = new SecretBrokerConfigProvider(0); // each call that begins later is its own
    provider.configure(settings);
    providers.add(provider);
    return provider;
  }

  static ConfigData get(SecretBrokerConfigProvider provider, String... references) {
    return provider.get("cspi", new LinkedHashSet<>(List.of(references)));
  }

  /** Returns the message of the exception that get throws, and checks that it contains no value. */
  static String failure(SecretBrokerConfigProvider provider, String... references) {
    String text = assertThrows(ConfigException.class, () -> get(provider, references)).getMessage();
    assertFalse(text.contains("canary"), text);
    return text;
  }

  static void await(CountDownLatch latch) {
    try {
      if (!latch.await(30, TimeUnit.SECONDS)) {
        throw new IllegalStateException("the test did not release this");
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  @Override
  public void close() {
    providers.forEach(SecretBrokerConfigProvider::close);
    broker.close();
  }
}

package io.github.secretbroker.connect;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.confluent.connect.jdbc.util.JdbcCredentials;
import io.github.secretbroker.v1.ResolveResponse;
import io.github.secretbroker.v1.ResolvedConfig;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.kafka.common.config.ConfigException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class JdbcCredentialsTest {
  private static final String PREFIX = "jdbc.credentials.provider.";

  static Map<String, String> configs(Bench bench) {
    Map<String, String> configs = new HashMap<>();
    bench.settings().forEach((name, value) -> configs.put(PREFIX + name, value));
    configs.put(PREFIX + "integration", "cspi");
    configs.put(PREFIX + "username.reference", "https://v.vault.azure.net::db::user");
    configs.put(PREFIX + "password.reference", "https://v.vault.azure.net::db::password");
    configs.put("connection.url", "jdbc:x"); // the connector's own
    return configs;
  }

  @Test
  void everyLoginHasTheCurrentPassword(@TempDir Path dir) {
    try (Bench bench = new Bench(dir); var provider = new SecretBrokerJdbcCredentialsProvider()) {
      provider.configure(configs(bench));
      for (int n = 1; n <= 2; n++) {
        int version = n;
        bench.broker.answer = request -> ResolveResponse.newBuilder()
            .putConfigs("k0", ResolvedConfig.newBuilder().setValue("sink").build())
            .putConfigs("k1", ResolvedConfig.newBuilder().setValue("canary-" + version).build()).build();
        JdbcCredentials credentials = provider.getJdbcCredentials();
        assertEquals("sink", credentials.getUsername());
        assertEquals("canary-" + version, credentials.getPassword());
        assertFalse(credentials.toString().contains("canary"));
      }
      provider.refresh();
      provider.getJdbcCredentials();
      provider.getJdbcCredentials();
      assertFalse(bench.broker.requests.get(1).hasMaxAge());
      assertTrue(bench.broker.requests.get(2).hasMaxAge(), "after a refresh the store is asked");
      assertFalse(bench.broker.requests.get(3).hasMaxAge(), "once");
    }
  }

  @Test
  void aLoginNamesItsConnector(@TempDir Path dir) {
    try (Bench bench = new Bench(dir); var provider = new SecretBrokerJdbcCredentialsProvider()) {
      Map<String, String> configs = configs(bench);
      provider.configure(configs);
      provider.getJdbcCredentials();
      configs.put(PREFIX + "connector", "orders/sink %41"); // as it is, not percent-encoded
      provider.configure(configs);
      provider.getJdbcCredentials();
      assertEquals("", bench.broker.requests.get(0).getConnector());
      assertEquals("orders/sink %41", bench.broker.requests.get(1).getConnector());
      for (String name : new String[] {"", "canary\n", "canary".repeat(43)}) {
        configs.put(PREFIX + "connector", name);
        String text = assertThrows(ConfigException.class, () -> provider.configure(configs)).getMessage();
        assertTrue(text.contains(PREFIX + "connector ") && !text.contains("canary"), text);
      }
    }
  }

  @Test
  void closingEndsACallInProgress(@TempDir Path dir) throws Exception {
    CountDownLatch called = new CountDownLatch(1);
    CountDownLatch release = new CountDownLatch(1);
    ExecutorService thread = Executors.newSingleThreadExecutor();
    try (Bench bench = new Bench(dir); var provider = new SecretBrokerJdbcCredentialsProvider()) {
      bench.broker.answer = request -> {
        called.countDown();
        Bench.await(release);
        return FakeBroker.echo(request);
      };
      Map<String, String> configs = configs(bench);
      configs.put(PREFIX + "timeout.ms", "9000");
      provider.configure(configs);
      Future<?> call = thread.submit(provider::getJdbcCredentials);
      Bench.await(called);
      long began = System.nanoTime();
      provider.close();
      Throwable failure = assertThrows(ExecutionException.class, call::get).getCause();
      assertTrue(failure.getMessage().contains("the provider was closed during the call"), failure.getMessage());
      assertTrue(System.nanoTime() - began < 3_000_000_000L, "closing waits for the call");
      release.countDown();
    } finally {
      thread.shutdownNow();
    }
  }

  @Test
  void whatIsMissingIsNamed(@TempDir Path dir) {
    try (Bench bench = new Bench(dir); var provider = new SecretBrokerJdbcCredentialsProvider()) {
      assertThrows(ConfigException.class, provider::getJdbcCredentials);
      for (String name : new String[] {"integration", "username.reference", "password.reference"}) {
        Map<String, String> configs = configs(bench);
        configs.remove(PREFIX + name);
        String text = assertThrows(ConfigException.class, () -> provider.configure(configs)).getMessage();
        assertTrue(text.contains(PREFIX + name), text);
      }
    }
  }
}

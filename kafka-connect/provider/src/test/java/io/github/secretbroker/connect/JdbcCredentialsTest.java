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
import org.apache.kafka.common.config.ConfigException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class JdbcCredentialsTest {
  private static final String PREFIX = "jdbc.credentials.provider.";

  private static Map<String, String> configs(Bench bench) {
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

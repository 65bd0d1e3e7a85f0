package io.github.secretbroker.connect;

import io.confluent.connect.jdbc.util.JdbcCredentials;
import io.confluent.connect.jdbc.util.JdbcCredentialsProvider;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.Configurable;
import org.apache.kafka.common.config.ConfigException;

/**
 * Tells a JDBC connector what to log in with, each time that it does, so that a rotated password
 * needs no restart. For connectors with {@code jdbc.credentials.provider.class}; see README.md.
 *
 * <p>The interface is the connector's, and this class is loaded only where there is one: the jar lies
 * in the connector's own plugin folder. Safe for concurrent use.
 */
public final class SecretBrokerJdbcCredentialsProvider
    implements JdbcCredentialsProvider, Configurable, AutoCloseable {
  private static final String PREFIX = "jdbc.credentials.provider.";
  private static final String INTEGRATION = "integration";
  private static final String USERNAME = "username.reference";
  private static final String PASSWORD = "password.reference";

  private BrokerConnection broker;
  private String integration;
  private List<String> references;
  private boolean newer; // the connector was refused and asks for something newer

  private record Credentials(String getUsername, String getPassword) implements JdbcCredentials {
    @Override
    public String toString() {
      return "Credentials[hidden]";
    }
  }

  /** Made by the connector. */
  public SecretBrokerJdbcCredentialsProvider() {}

  /**
   * Takes the integration, the references and the settings of {@link Settings}, with or without their
   * prefix. What else is there is the connector's own.
   */
  @Override
  public synchronized void configure(Map<String, ?> configs) {
    Map<String, Object> settings = new HashMap<>();
    for (String name : Settings.NAMES) {
      Object value = setting(configs, name);
      if (value != null) {
        settings.put(name, value);
      }
    }
    integration = required(configs, INTEGRATION);
    references = List.of(required(configs, USERNAME), required(configs, PASSWORD));
    BrokerConnection previous = broker;
    broker = BrokerConnection.acquire(Settings.parse(settings));
    if (previous != null) {
      previous.close();
    }
  }

  private static Object setting(Map<String, ?> configs, String name) {
    return configs.containsKey(name) ? configs.get(name) : configs.get(PREFIX + name);
  }

  private static String required(Map<String, ?> configs, String name) {
    Object value = setting(configs, name);
    if (value == null || value.toString().isBlank()) {
      throw new ConfigException("secretbroker: " + PREFIX + name + " is missing");
    }
    return value.toString().strip();
  }

  /** @throws ConfigException if either has no value; the message says why */
  @Override
  public synchronized JdbcCredentials getJdbcCredentials() {
    if (broker == null) {
      throw new ConfigException("secretbroker: the credentials provider is not configured, or was closed");
    }
    try {
      List<String> values = broker.resolve(integration, references, newer ? Duration.ZERO : null).values();
      newer = false;
      return new Credentials(values.get(0), values.get(1));
    } catch (BrokerException e) {
      throw new ConfigException(e.describe(integration, references));
    }
  }

  /** The next credentials are read from the store, not from the broker's cache. */
  @Override
  public synchronized void refresh() {
    newer = true;
  }

  @Override
  public synchronized void close() {
    if (broker != null) {
      broker.close();
      broker = null;
    }
  }
}

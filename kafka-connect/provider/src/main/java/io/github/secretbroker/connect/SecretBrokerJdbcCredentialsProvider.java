package io.github.secretbroker.connect;

import io.confluent.connect.jdbc.util.JdbcCredentials;
import io.confluent.connect.jdbc.util.JdbcCredentialsProvider;
import java.lang.ref.Cleaner;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.common.Configurable;
import org.apache.kafka.common.config.ConfigException;

/**
 * Provides a JDBC connector with current credentials for each login, so that a rotated password
 * requires no restart. For connectors with {@code jdbc.credentials.provider.class}; see README.md.
 *
 * <p>The interface belongs to the connector. This class can be loaded only if the jar is in the
 * connector's own plugin directory. Safe for concurrent use.
 */
public final class SecretBrokerJdbcCredentialsProvider
    implements JdbcCredentialsProvider, Configurable, AutoCloseable {
  private static final String PREFIX = "jdbc.credentials.provider.";
  private static final String INTEGRATION = "integration";
  private static final String CONNECTOR = "connector";
  private static final String USERNAME = "username.reference";
  private static final String PASSWORD = "password.reference";

  /** Closes what belongs to providers that were discarded without being closed. */
  private static final Cleaner DISCARDED = Cleaner.create();

  private volatile JdbcLogins logins; // null before configure and after close
  private final AtomicInteger refreshes = new AtomicInteger(); // that the connector has requested
  private volatile int refreshed; // the value of refreshes at the begin of the last call that read the store

  private record Credentials(String getUsername, String getPassword) implements JdbcCredentials {
    @Override
    public String toString() {
      return "Credentials[hidden]";
    }
  }

  /** For the connector. */
  public SecretBrokerJdbcCredentialsProvider() {}

  /**
   * Reads the integration, the name of the connector if there is one, the references and the settings of {@link Settings}, with or without the
   * prefix. It ignores all others, which belong to the connector.
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
    Target target = new Target(required(configs, INTEGRATION), connector(configs));
    List<String> references = List.of(required(configs, USERNAME), required(configs, PASSWORD));
    JdbcLogins previous = logins;
    JdbcLogins now = new JdbcLogins(BrokerConnection.acquire(Settings.parse(settings)), target, references);
    DISCARDED.register(this, now::close);
    logins = now;
    if (previous != null) {
      previous.close();
    }
  }

  private static Object setting(Map<String, ?> configs, String name) {
    return configs.containsKey(name) ? configs.get(name) : configs.get(PREFIX + name);
  }

  private static String connector(Map<String, ?> configs) {
    Object value = setting(configs, CONNECTOR);
    if (value == null) {
      return "";
    }
    String problem = Target.problem(value.toString());
    if (problem != null) {
      throw new ConfigException("secretbroker: " + PREFIX + CONNECTOR + " " + problem);
    }
    return value.toString();
  }

  private static String required(Map<String, ?> configs, String name) {
    Object value = setting(configs, name);
    if (value == null || value.toString().isBlank()) {
      throw new ConfigException("secretbroker: " + PREFIX + name + " is missing");
    }
    return value.toString().strip();
  }

  /**
   * Returns the current credentials: those of the last notice about a change, or later ones. While no broker
   * can be reached, it returns the last ones, until they expire or {@link #refresh} says that they do not work.
   *
   * <p>Not synchronized, so that {@link #close} ends a call in progress.
   *
   * @throws ConfigException if a reference could not be resolved; the message contains the reason
   */
  @Override
  public JdbcCredentials getJdbcCredentials() {
    JdbcLogins now = logins;
    if (now == null) {
      throw new ConfigException("secretbroker: the credentials provider is not configured, or was closed");
    }
    int requested = refreshes.get();
    try {
      List<String> values = now.get(requested != refreshed);
      refreshed = requested;
      return new Credentials(values.get(0), values.get(1));
    } catch (BrokerException e) {
      throw new ConfigException(e.describe(now.integration(), now.references()));
    }
  }

  /** Makes the broker read the next credentials from the store, not from its cache. */
  @Override
  public void refresh() {
    refreshes.incrementAndGet();
  }

  @Override
  public synchronized void close() {
    JdbcLogins previous = logins;
    logins = null;
    if (previous != null) {
      previous.close();
    }
  }
}

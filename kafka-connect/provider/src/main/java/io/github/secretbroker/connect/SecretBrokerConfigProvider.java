package io.github.secretbroker.connect;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Pattern;
import org.apache.kafka.common.config.ConfigChangeCallback;
import org.apache.kafka.common.config.ConfigData;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.config.provider.ConfigProvider;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Resolves {@code ${broker:<integration id>:<reference>}}, for example {@code
 * ${broker:cspi-sqlserver:https://my-vault.vault.azure.net::sqlserver-db-secret::password}}.
 *
 * <p>Kafka takes the placeholder apart at its first two colons and asks once for all references of
 * one integration that a configuration has, which becomes one call of the broker. Every reference
 * gets its value or the call throws: Kafka would leave the placeholder of a missing value standing,
 * and hand it to the connector as if it were the password.
 *
 * <p>Safe for concurrent use. {@link #configure} reads files and does not contact the broker, so that
 * a worker starts while its broker is down.
 */
public final class SecretBrokerConfigProvider implements ConfigProvider {
  private static final Logger LOG = LoggerFactory.getLogger(SecretBrokerConfigProvider.class);

  /** What the broker takes as the id of an integration (resolver.proto). */
  private static final Pattern INTEGRATION_ID = Pattern.compile("[A-Za-z0-9._-]{1,64}");

  private volatile BrokerConnection connection;

  /** Made by {@link java.util.ServiceLoader} or by the worker. */
  public SecretBrokerConfigProvider() {}

  @Override
  public void configure(Map<String, ?> configs) {
    Settings settings = Settings.parse(configs);
    BrokerConnection previous = connection;
    connection = BrokerConnection.acquire(settings);
    if (previous != null) {
      previous.close();
    }
  }

  /** Not possible: the broker answers references, it does not list secrets. */
  @Override
  public ConfigData get(String path) {
    throw new ConfigException(
        "secretbroker: secrets are asked for one by one; write ${broker:<integration id>:<reference>}");
  }

  /**
   * Resolves the references through the integration that {@code path} names.
   *
   * @return all of them; with a time-to-live only if a secret's own validity ends: the time that is
   *     left of the one that ends first
   * @throws ConfigException if any of them has no value; the message says of each why, and has the
   *     id of the call in the broker's audit log
   */
  @Override
  public ConfigData get(String path, Set<String> keys) {
    BrokerConnection broker = connection;
    if (broker == null) {
      throw new ConfigException("secretbroker: the provider is not configured, or was closed");
    }
    if (keys.isEmpty()) {
      return new ConfigData(Map.of());
    }
    checkPath(path);
    List<String> references = new ArrayList<>(keys);
    Answer answer;
    try {
      answer = broker.resolve(path, references);
    } catch (BrokerException e) {
      LOG.debug("The call to the broker failed", e);
      throw new ConfigException(e.describe(path, references));
    }
    Map<String, String> values = new HashMap<>();
    for (int i = 0; i < references.size(); i++) {
      values.put(references.get(i), answer.values().get(i));
    }
    // null is the same as no time-to-live at all.
    return new ConfigData(values, answer.timeLeftMs());
  }

  private static void checkPath(String path) {
    if (path == null || path.isEmpty()) {
      throw new ConfigException(
          "secretbroker: a placeholder names no integration; write ${broker:<integration id>:<reference>}");
    }
    if (path.equals("https") || path.equals("arn") || path.startsWith("projects/")) {
      throw new ConfigException(
          "secretbroker: a placeholder has its reference where the integration belongs;"
              + " write ${broker:<integration id>:<reference>}");
    }
    if (!INTEGRATION_ID.matcher(path).matches()) { // not quoted: it may be anything
      throw new ConfigException(
          "secretbroker: what stands between the first two colons of a placeholder is no integration id,"
              + " which has 1 to 64 characters of [A-Za-z0-9._-];"
              + " write ${broker:<integration id>:<reference>}");
    }
  }

  /** Not supported: the broker does not tell of changes. Kafka Connect never asks for it. */
  @Override
  public void subscribe(String path, Set<String> keys, ConfigChangeCallback callback) {
    throw new UnsupportedOperationException("secretbroker: changes of secrets are not announced");
  }

  /** Not supported, as {@link #subscribe}. */
  @Override
  public void unsubscribe(String path, Set<String> keys, ConfigChangeCallback callback) {
    throw new UnsupportedOperationException("secretbroker: changes of secrets are not announced");
  }

  /** Not supported, as {@link #subscribe}. */
  @Override
  public void unsubscribeAll() {
    throw new UnsupportedOperationException("secretbroker: changes of secrets are not announced");
  }

  /** Gives the connection back. The last one that uses it ends it. */
  @Override
  public synchronized void close() {
    BrokerConnection broker = connection;
    connection = null;
    if (broker != null) {
      broker.close();
    }
  }
}

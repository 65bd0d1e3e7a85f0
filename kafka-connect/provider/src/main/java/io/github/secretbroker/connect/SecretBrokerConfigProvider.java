package io.github.secretbroker.connect;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.common.config.ConfigChangeCallback;
import org.apache.kafka.common.config.ConfigData;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.config.provider.ConfigProvider;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Resolves {@code ${secretbroker:<integration id>:<reference>}}, for example {@code
 * ${secretbroker:cspi-sqlserver:https://my-vault.vault.azure.net::sqlserver-db-secret::password}}.
 *
 * <p>{@code ${secretbroker:<integration id>/<connector>:<reference>}} also names the connector that contains
 * the placeholder, percent-encoded, so that the broker records which connector has read which version.
 *
 * <p>Kafka splits the placeholder at its first two colons, and calls this class once for all
 * references of one path in a configuration, which results in one call of the broker. The
 * call throws unless every reference has a value: Kafka would otherwise keep the placeholder of a
 * missing value, and pass it to the connector as if it were the password.
 *
 * <p>Safe for concurrent use. {@link #configure} reads files and does not contact the broker, so a
 * worker whose own configuration has no placeholders starts even while its broker is down.
 */
public final class SecretBrokerConfigProvider implements ConfigProvider {
  private static final Logger LOG = LoggerFactory.getLogger(SecretBrokerConfigProvider.class);

  private static final String OWN_CONFIGURATION = "org.apache.kafka.common.config.AbstractConfig";
  private static final String CONNECTOR_CONFIGURATION = "org.apache.kafka.connect.runtime.WorkerConfigTransformer";

  private final long hold;
  private volatile Configured configured; // null before configure and after close

  /** What {@link #configure} has created. */
  private record Configured(BrokerConnection broker, SharedCalls calls, Subscriptions subscriptions) {
    void close() {
      subscriptions.close();
      calls.close();
      broker.close();
    }
  }

  /** For {@link java.util.ServiceLoader} and the worker. */
  public SecretBrokerConfigProvider() {
    this(SharedCalls.HOLD);
  }

  /** @param hold how long answers are shared, in nanoseconds */
  SecretBrokerConfigProvider(long hold) {
    this.hold = hold;
  }

  @Override
  public synchronized void configure(Map<String, ?> configs) {
    BrokerConnection broker = BrokerConnection.acquire(Settings.parse(configs));
    Configured previous = configured;
    configured = new Configured(broker, new SharedCalls(broker, hold), new Subscriptions(broker));
    if (previous != null) {
      previous.close();
    }
  }

  /** Not supported: the broker resolves references, and does not list secrets. */
  @Override
  public ConfigData get(String path) {
    throw new ConfigException(
        "secretbroker: a placeholder must name a reference; write " + Target.FORM);
  }

  /**
   * Resolves the references through the integration that {@code path} names, for the connector that it names.
   *
   * @return all values, with a time-to-live if at least one of the secrets expires: the time until
   *     the first one expires
   * @throws ConfigException if a reference could not be resolved; the message contains the reason for
   *     each, and the id of the call in the broker's audit log
   */
  @Override
  public ConfigData get(String path, Set<String> keys) {
    Configured now = configured();
    if (keys.isEmpty()) {
      return new ConfigData(Map.of());
    }
    Target target = Target.parse(path);
    List<String> references = ordered(keys);
    Answer answer;
    try {
      answer = !BrokerConnection.everResolved() && ownConfiguration()
          ? now.broker().resolveAtStartup(target, references)
          : now.calls().resolve(target, references);
    } catch (BrokerException e) {
      LOG.debug("The call to the broker failed", e);
      throw new ConfigException(e.describe(target.integration(), references));
    }
    Map<String, String> values = new HashMap<>();
    for (int i = 0; i < references.size(); i++) {
      values.put(references.get(i), answer.values().get(i));
    }
    // null means no time-to-live.
    return new ConfigData(values, answer.timeLeftMs());
  }

  private Configured configured() {
    Configured now = configured;
    if (now == null) {
      throw new ConfigException("secretbroker: the provider is not configured, or was closed");
    }
    return now;
  }

  /** Returns the references in an order that is the same for equal sets. */
  private static List<String> ordered(Set<String> keys) {
    return keys.stream().sorted().toList();
  }

  /**
   * Reports whether this call is for the configuration of the process itself: of a worker, MirrorMaker,
   * a client or a Kafka server. The process ends if the call fails. Kafka does not pass this
   * information, but the two kinds of configuration are resolved by different classes.
   */
  static boolean ownConfiguration() {
    return StackWalker.getInstance()
        .walk(frames -> frames.map(StackWalker.StackFrame::getClassName)
            .filter(name -> name.equals(OWN_CONFIGURATION) || name.equals(CONNECTOR_CONFIGURATION))
            .findFirst())
        .filter(OWN_CONFIGURATION::equals)
        .isPresent();
  }

  /**
   * Calls back with the values of the references soon after this method returns, and again after each
   * change. Callbacks run one after the other on a thread of the provider, until {@link #unsubscribe} or
   * {@link #close}. If access to a secret is lost, there is no callback until it returns. Kafka Connect never
   * calls this method.
   *
   * @throws ConfigException if a reference could not be resolved, as in {@link #get(String, Set)}; there is no
   *     subscription then
   */
  @Override
  public void subscribe(String path, Set<String> keys, ConfigChangeCallback callback) {
    Configured now = configured();
    Target target = Target.parse(path);
    if (keys.isEmpty()) {
      return;
    }
    List<String> references = ordered(keys);
    try {
      now.subscriptions().subscribe(path, target, references, callback);
    } catch (BrokerException e) {
      throw new ConfigException(e.describe(target.integration(), references));
    }
  }

  /** Ends a subscription, if there is one. A callback may be running at this moment. */
  @Override
  public void unsubscribe(String path, Set<String> keys, ConfigChangeCallback callback) {
    Configured now = configured;
    if (now != null) {
      now.subscriptions().unsubscribe(path, keys, callback);
    }
  }

  /** Ends all subscriptions; see {@link #unsubscribe}. */
  @Override
  public void unsubscribeAll() {
    Configured now = configured;
    if (now != null) {
      now.subscriptions().unsubscribeAll();
    }
  }

  /** Closes the connection, unless other providers still use it. */
  @Override
  public synchronized void close() {
    Configured previous = configured;
    configured = null;
    if (previous != null) {
      previous.close();
    }
  }
}

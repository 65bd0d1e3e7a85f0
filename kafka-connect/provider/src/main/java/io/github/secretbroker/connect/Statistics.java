package io.github.secretbroker.connect;

import java.io.IOException;
import java.io.InputStream;
import java.lang.management.ManagementFactory;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.LongAdder;
import java.util.function.Supplier;
import javax.management.Attribute;
import javax.management.AttributeList;
import javax.management.AttributeNotFoundException;
import javax.management.DynamicMBean;
import javax.management.InstanceAlreadyExistsException;
import javax.management.JMException;
import javax.management.MBeanAttributeInfo;
import javax.management.MBeanInfo;
import javax.management.ObjectName;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Counts the calls of a connection, for JMX. It receives no reference, no name of a secret and no
 * value. Safe for concurrent use.
 *
 * <p>As of Kafka 4.4, config providers cannot add to the worker's own metrics: KIP-877 allows it only
 * to other plugins.
 */
final class Statistics implements DynamicMBean {
  private static final Logger LOG = LoggerFactory.getLogger(Statistics.class);

  private final LongAdder resolved = new LongAdder();
  private final LongAdder failed = new LongAdder();
  private final LongAdder references = new LongAdder();
  private final LongAdder retried = new LongAdder();
  private final LongAdder joined = new LongAdder();
  private final LongAdder nanos = new LongAdder();
  private final AtomicLong slowest = new AtomicLong();
  private volatile long lastSuccess; // System.nanoTime, 0 for none
  private ObjectName name;

  /** The names follow those of Kafka's own metrics; times are in milliseconds. */
  private Statistics() {
    number("resolve-total", "Sets of references that were resolved.", resolved::sum);
    number("resolve-failed-total", "Sets of references that could not be resolved.", failed::sum);
    number("resolve-shared-total", "Those of resolve-total that were answered by another call.", joined::sum);
    number("reference-total", "References that were resolved.", references::sum);
    number("retry-total", "Attempts after the first.", retried::sum);
    time("resolve-time-avg", "The average time to resolve a set of references, including retries, in milliseconds.", this::average);
    time("resolve-time-max", "The longest time to resolve a set of references, including retries, in milliseconds.", () -> slowest.get() / 1e6);
    number("last-success-seconds-ago", "Seconds since a set of references was last resolved; -1 if none was.", this::sinceLastSuccess);
  }

  private void number(String name, String description, Supplier<Object> value) {
    metrics.put(name, new Metric(name, long.class.getName(), description, value));
  }

  private void time(String name, String description, Supplier<Object> value) {
    metrics.put(name, new Metric(name, double.class.getName(), description, value));
  }

  /** One attribute: its name and description, which are stable, and its value. */
  private record Metric(String name, String type, String description, Supplier<Object> value) {}

  private final Map<String, Metric> metrics = new LinkedHashMap<>();

  /**
   * Registers new statistics in JMX as {@code secretbroker.connect:type=config-provider,client-id=...}.
   *
   * @param clientId letters, digits, dots, underscores and hyphens
   */
  static Statistics register(String clientId) {
    Statistics statistics = new Statistics();
    String base = "secretbroker.connect:type=config-provider,client-id=" + clientId;
    // The jar may be in the directories of several plugins, and is loaded once for each. Several
    // providers may also have the same client.id.
    for (int n = 1; n <= 16 && statistics.name == null; n++) {
      try {
        ObjectName candidate = new ObjectName(n == 1 ? base : base + ",instance=" + n);
        ManagementFactory.getPlatformMBeanServer().registerMBean(statistics, candidate);
        statistics.name = candidate;
      } catch (InstanceAlreadyExistsException e) {
        continue;
      } catch (JMException | SecurityException e) {
        LOG.warn("Cannot register the statistics in JMX: {}", e.getClass().getSimpleName());
        break;
      }
    }
    return statistics;
  }

  void unregister() {
    if (name != null) {
      try {
        ManagementFactory.getPlatformMBeanServer().unregisterMBean(name);
      } catch (JMException e) {
        LOG.debug("The statistics were not registered in JMX", e);
      }
    }
  }

  void answered(int count, long took) {
    resolved.increment();
    references.add(count);
    time(took);
    long now = System.nanoTime();
    lastSuccess = now == 0 ? 1 : now;
  }

  /** Counts a set of references that another call has answered. */
  void joined(int count, long took) {
    joined.increment();
    answered(count, took);
  }

  void failed(long took) {
    failed.increment();
    time(took);
  }

  void retried() {
    retried.increment();
  }

  private void time(long took) {
    nanos.add(took);
    slowest.accumulateAndGet(took, Math::max);
  }

  private Double average() {
    long answers = resolved.sum() + failed.sum();
    return answers == 0 ? 0 : nanos.sum() / 1e6 / answers;
  }

  private Long sinceLastSuccess() {
    long last = lastSuccess;
    return last == 0 ? -1 : TimeUnit.NANOSECONDS.toSeconds(System.nanoTime() - last);
  }

  @Override
  public Object getAttribute(String attribute) throws AttributeNotFoundException {
    Metric metric = metrics.get(attribute);
    if (metric == null) {
      throw new AttributeNotFoundException(attribute);
    }
    return metric.value().get();
  }

  @Override
  public AttributeList getAttributes(String[] attributes) {
    AttributeList found = new AttributeList();
    for (String attribute : attributes) {
      Metric metric = metrics.get(attribute);
      if (metric != null) {
        found.add(new Attribute(attribute, metric.value().get()));
      }
    }
    return found;
  }

  @Override
  public void setAttribute(Attribute attribute) throws AttributeNotFoundException {
    throw new AttributeNotFoundException("the attributes are read-only");
  }

  @Override
  public AttributeList setAttributes(AttributeList attributes) {
    return new AttributeList();
  }

  @Override
  public Object invoke(String action, Object[] parameters, String[] signature) {
    throw new UnsupportedOperationException("there are no operations");
  }

  @Override
  public MBeanInfo getMBeanInfo() {
    MBeanAttributeInfo[] attributes =
        metrics.values().stream()
            .map(m -> new MBeanAttributeInfo(m.name(), m.type(), m.description(), true, false, false))
            .toArray(MBeanAttributeInfo[]::new);
    return new MBeanInfo(
        Statistics.class.getName(), "The connection of a config provider to the brokers.", attributes, null, null, null);
  }

  /** Returns the version of this jar, which the build has written. */
  static String version() {
    try (InputStream in = Statistics.class.getResourceAsStream("version.properties")) {
      Properties properties = new Properties();
      properties.load(in);
      return properties.getProperty("version");
    } catch (IOException | NullPointerException e) {
      return "unknown";
    }
  }
}

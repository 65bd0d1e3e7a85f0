package io.github.secretbroker.connect;

import java.io.IOException;
import java.io.InputStream;
import java.lang.management.ManagementFactory;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.LongAdder;
import javax.management.InstanceAlreadyExistsException;
import javax.management.JMException;
import javax.management.ObjectName;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Counts the calls of a connection, for JMX. It receives no reference, no name of a secret and no
 * value. Safe for concurrent use.
 *
 * <p>As of Kafka 4.3, config providers cannot add to the worker's own metrics: KIP-877 allows it only
 * to other plugins.
 */
final class Statistics implements StatisticsMXBean {
  private static final Logger LOG = LoggerFactory.getLogger(Statistics.class);

  private final LongAdder resolved = new LongAdder();
  private final LongAdder failed = new LongAdder();
  private final LongAdder references = new LongAdder();
  private final LongAdder retried = new LongAdder();
  private final LongAdder nanos = new LongAdder();
  private final AtomicLong slowest = new AtomicLong();
  private volatile long lastSuccess; // System.nanoTime, 0 for none
  private ObjectName name;

  private Statistics() {}

  /** Registers new statistics in JMX as {@code secretbroker.connect:type=config-provider,...}. */
  static Statistics register(String brokers) {
    Statistics statistics = new Statistics();
    String base = "secretbroker.connect:type=config-provider,brokers=" + ObjectName.quote(brokers);
    // The jar may be in the directories of several plugins, and is loaded once for each.
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

  @Override
  public long getResolveTotal() {
    return resolved.sum();
  }

  @Override
  public long getResolveFailedTotal() {
    return failed.sum();
  }

  @Override
  public long getReferencesTotal() {
    return references.sum();
  }

  @Override
  public long getRetryTotal() {
    return retried.sum();
  }

  @Override
  public double getResolveTimeAvgMs() {
    long answers = resolved.sum() + failed.sum();
    return answers == 0 ? 0 : nanos.sum() / 1e6 / answers;
  }

  @Override
  public double getResolveTimeMaxMs() {
    return slowest.get() / 1e6;
  }

  @Override
  public long getSecondsSinceLastSuccess() {
    long last = lastSuccess;
    return last == 0 ? -1 : TimeUnit.NANOSECONDS.toSeconds(System.nanoTime() - last);
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

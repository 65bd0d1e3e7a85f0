package io.github.secretbroker.connect;

/** The JMX attributes of the connection to the brokers. Counters start with the worker. */
public interface StatisticsMXBean {
  /** The number of sets of references that were resolved. */
  long getResolveTotal();

  /** The number of sets of references that could not be resolved. */
  long getResolveFailedTotal();

  /** The number of references that were resolved. */
  long getReferencesTotal();

  /** The number of attempts after the first. */
  long getRetryTotal();

  /** The average time to resolve a set of references, including retries, in milliseconds. */
  double getResolveTimeAvgMs();

  /** The longest time to resolve a set of references, including retries, in milliseconds. */
  double getResolveTimeMaxMs();

  /** Seconds since a set of references was last resolved; -1 if none was. */
  long getSecondsSinceLastSuccess();
}

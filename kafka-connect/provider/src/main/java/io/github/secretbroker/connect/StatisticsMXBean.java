package io.github.secretbroker.connect;

/** What JMX shows of the connection to the brokers. Counts since the worker's start. */
public interface StatisticsMXBean {
  /** Configurations' sets of references that were resolved. */
  long getResolveTotal();

  /** Those that were not; the connector was told why. */
  long getResolveFailedTotal();

  /** References in all that were resolved. */
  long getReferencesTotal();

  /** Attempts after the first. */
  long getRetryTotal();

  /** How long an answer took on the average, repetitions included, in milliseconds. */
  double getResolveTimeAvgMs();

  /** How long the slowest answer took, in milliseconds. */
  double getResolveTimeMaxMs();

  /** Seconds since the last answer that was a success, -1 if there was none. */
  long getSecondsSinceLastSuccess();
}

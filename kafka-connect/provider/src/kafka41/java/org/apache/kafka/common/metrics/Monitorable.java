package org.apache.kafka.common.metrics;

/**
 * Stands in for Kafka's own interface of this name (KIP-877) on workers before 4.1, which have none:
 * without it, a class that implements it would not load there. A plugin's class loader asks the
 * worker's first, so that from 4.1 on the worker's own is used.
 */
public interface Monitorable {
  /** Called by workers from 4.1 on. */
  void withPluginMetrics(PluginMetrics metrics);
}

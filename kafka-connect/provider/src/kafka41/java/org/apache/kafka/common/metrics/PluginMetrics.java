package org.apache.kafka.common.metrics;

import java.util.LinkedHashMap;
import org.apache.kafka.common.MetricName;

/**
 * What is used of Kafka's interface of this name (KIP-877), to compile against the API before 4.1. It
 * does not go into the jar.
 */
public interface PluginMetrics {
  /** A name with the worker's tags for this plugin. */
  MetricName metricName(String name, String description, LinkedHashMap<String, String> tags);

  /** Adds a metric to the worker's own. */
  void addMetric(MetricName name, MetricValueProvider<?> provider);
}

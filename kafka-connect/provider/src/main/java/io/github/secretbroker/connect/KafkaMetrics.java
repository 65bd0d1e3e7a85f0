package io.github.secretbroker.connect;

import java.util.LinkedHashMap;
import org.apache.kafka.common.metrics.Gauge;
import org.apache.kafka.common.metrics.PluginMetrics;

/** Shows statistics among the worker's own metrics. Loaded by workers that have KIP-877 only. */
final class KafkaMetrics {
  private KafkaMetrics() {}

  static void register(PluginMetrics metrics, Statistics statistics) {
    statistics.gauges().forEach((name, value) ->
        metrics.addMetric(
            metrics.metricName(name, "of the connection to the secretbroker", new LinkedHashMap<>()),
            (Gauge<Number>) (config, now) -> value.get()));
  }
}

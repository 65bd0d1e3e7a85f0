package io.github.secretbroker.connect;

import com.google.protobuf.Duration;
import io.github.secretbroker.v1.ConfigError;
import io.github.secretbroker.v1.ResolveResponse;
import io.github.secretbroker.v1.ResolvedConfig;
import java.util.ArrayList;
import java.util.List;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The values of the requested references, in the order of the request.
 *
 * @param versions of the secrets, in the same order
 * @param timeLeftMs the time until the first of the secrets expires, in milliseconds and at least
 *     one; null if none of them expires
 */
record Answer(List<String> values, List<String> versions, Long timeLeftMs) {
  private static final Logger LOG = LoggerFactory.getLogger(Answer.class);

  /** Shows no value. */
  @Override
  public String toString() {
    return "Answer[" + values.size() + " values]";
  }

  /** Returns a usable value for every reference, or throws. */
  static Answer of(String integration, int count, ResolveResponse response) throws BrokerException {
    List<BrokerException.Fault> faults = new ArrayList<>();
    List<String> values = new ArrayList<>(count);
    List<String> versions = new ArrayList<>(count);
    Long timeLeft = null;
    int stale = 0;
    for (int i = 0; i < count; i++) {
      String name = "k" + i;
      ResolvedConfig config = response.getConfigsMap().get(name);
      ConfigError error = response.getErrorsMap().get(name);
      String unusable = unusable(config);
      if (error != null) {
        long retry = error.hasRetryDelay() ? BrokerException.millis(error.getRetryDelay()) : -1;
        faults.add(new BrokerException.Fault(i, error.getReason(), error.getMessage(), retry));
      } else if (unusable != null) {
        faults.add(new BrokerException.Fault(i, BrokerException.UNUSABLE_VALUE, unusable, -1));
      } else {
        values.add(config.getValue());
        versions.add(config.getVersion());
        stale += config.getStale() ? 1 : 0;
        timeLeft = sooner(timeLeft, config);
      }
    }
    if (!faults.isEmpty()) {
      throw new BrokerException(faults, response.getRequestId());
    }
    if (stale > 0) {
      LOG.warn("Integration {}: the broker cannot reach the store, {} of {} values are stale, request {}",
          integration, stale, count, response.getRequestId());
    }
    return new Answer(List.copyOf(values), List.copyOf(versions), timeLeft);
  }

  /** Returns why a connector must not use the broker's result, or null if it may. */
  private static String unusable(ResolvedConfig config) {
    if (config == null) {
      return "the broker returned no result for it; its version may be incompatible with this provider";
    }
    if (!config.getValue().isEmpty()) {
      return null;
    }
    return config.getDecodedValue().isEmpty()
        ? "the value is empty; set one in the secret store"
        : "the decoded value is not text, but a connector's configuration must be; leave out ?decode=base64";
  }

  /** Returns the shorter of timeLeft, which may be null, and the time left of config, if it expires. */
  private static Long sooner(Long timeLeft, ResolvedConfig config) {
    if (!config.hasTimeLeft()) {
      return timeLeft;
    }
    Duration left = config.getTimeLeft();
    long ms = left.getSeconds() >= Long.MAX_VALUE / 2000 ? Long.MAX_VALUE / 2 : left.getSeconds() * 1000 + left.getNanos() / 1_000_000;
    if (ms < 1) { // expired in transit; a restart now would return the same value
      return timeLeft;
    }
    return timeLeft == null ? ms : Math.min(timeLeft, ms);
  }
}

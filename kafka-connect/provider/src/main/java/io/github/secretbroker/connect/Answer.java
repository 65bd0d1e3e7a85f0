package io.github.secretbroker.connect;

import java.util.List;

/**
 * The values of the requested references, in the order of the request.
 *
 * @param timeLeftMs the time until the first of the secrets expires, in milliseconds and at least
 *     one; null if none of them expires
 */
record Answer(List<String> values, Long timeLeftMs) {
  /** Shows no value. */
  @Override
  public String toString() {
    return "Answer[" + values.size() + " values]";
  }
}

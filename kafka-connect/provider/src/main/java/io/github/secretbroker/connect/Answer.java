package io.github.secretbroker.connect;

import java.util.List;

/**
 * The values of the references that were asked for, in their order.
 *
 * @param timeLeftMs how long the secret that ends first is valid from now on, in milliseconds and at
 *     least one; null if none of them has an end
 */
record Answer(List<String> values, Long timeLeftMs) {
  /** Shows no value. */
  @Override
  public String toString() {
    return "Answer[" + values.size() + " values]";
  }
}

package io.github.secretbroker.connect.worker;

import java.util.function.BooleanSupplier;

/** A condition that becomes true after a delay, for effects that can be observed only by time. */
final class AfterMillis implements BooleanSupplier {
  private final long end;

  AfterMillis(long ms) {
    this.end = System.nanoTime() + ms * 1_000_000;
  }

  @Override
  public boolean getAsBoolean() {
    return System.nanoTime() > end;
  }
}

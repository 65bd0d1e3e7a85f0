package io.github.secretbroker.connect.worker;

import java.util.function.BooleanSupplier;

/** Holds from some time after it was made: for what nothing can be observed of but the time. */
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

package io.github.secretbroker.connect;

import java.util.concurrent.TimeUnit;

/**
 * Decides how long calls wait for brokers that earlier calls could not reach. A worker starts hundreds
 * of tasks with eight threads, and leaves its group if that takes a minute.
 *
 * <p>Calls that follow each other closely form a burst. All calls of a burst together have two seconds
 * for new attempts. Later ones wait only for one connection attempt, which began after the call: if
 * attempts fail or succeed, until this one does, and if attempts hang, for a time that is halved with
 * each of them, from a second down to {@link #PROBE}. It is a second again after a short pause between
 * calls, since a worker that is busy with many tasks makes none, so that a restart by an operator finds a
 * broker that is back. A call after a longer pause is a burst of its own and so has two seconds.
 *
 * <p>Safe for concurrent use. Times are those of {@link System#nanoTime}.
 */
final class Outage {
  /** The time that all calls of a burst have together. */
  static final long BURST = TimeUnit.SECONDS.toNanos(2);
  /** The time of the first connection attempt after attempts have hung for two seconds. */
  static final long FIRST_PROBE = TimeUnit.SECONDS.toNanos(1);
  /** The least time of a connection attempt if attempts hang. */
  static final long PROBE = TimeUnit.MILLISECONDS.toNanos(100);
  /** An attempt that ends later has timed out: less than the timeout of a connection, two seconds. */
  private static final long SOON = TimeUnit.MILLISECONDS.toNanos(1_500);
  /** After a longer gap between calls, attempts have the time of the first probe again. */
  private static final long PAUSE = PROBE;
  /** Calls with a longer gap between them belong to different bursts. */
  static final long GAP = TimeUnit.MILLISECONDS.toNanos(500);

  private boolean lasts;
  private int calls; // in progress
  private long burst; // the begin of the current burst
  private long progress; // the last time that an attempt ended, but not by its own timeout
  private long lastEnd = System.nanoTime() - 2 * GAP;
  private int probes; // attempts since two seconds after the last progress
  private long lastProbe = lastEnd; // the begin of the last of them

  /** Registers a call. Reports whether the last call could not reach a broker. */
  synchronized boolean arrive(long now) {
    if (calls == 0 && now - lastEnd > PAUSE) {
      probes = 0;
      if (now - lastEnd > GAP) {
        burst = now;
        progress = now;
      }
    }
    calls++;
    return lasts;
  }

  /** Reports whether the last call could not reach a broker. */
  synchronized boolean lasts() {
    return lasts;
  }

  /** Registers the end of a call, and whether it could not reach a broker. */
  synchronized void leave(long now, boolean unreachable) {
    calls--;
    lastEnd = now;
    lasts = unreachable;
  }

  /** Registers that a connection attempt has failed or succeeded. */
  synchronized void attempted(long began, long now) {
    if (now - began < SOON) {
      progress = now;
      probes = 0;
    }
  }

  /** Returns the time until which calls of the current burst may begin new attempts. */
  synchronized long burstEnd() {
    return burst + BURST;
  }

  /** Returns the time until which a call waits for a connection attempt that began at that time. */
  synchronized long end(long attemptBegan) {
    long patient = progress + BURST;
    if (attemptBegan - patient > 0 && attemptBegan - lastProbe > 0) { // the first call that waits for it
      lastProbe = attemptBegan;
      probes++;
    }
    long probe = attemptBegan + (probes == 0 ? PROBE : Math.max(PROBE, FIRST_PROBE >> Math.min(probes - 1, 5)));
    return patient - probe > 0 ? patient : probe;
  }
}

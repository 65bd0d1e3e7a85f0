package io.github.secretbroker.connect;

import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/**
 * The gRPC channels to the brokers. Usually there is one, the current channel. While it is not
 * connected, a call gets a new channel that began to connect after the call, so a call never fails
 * because of an attempt that began before it. Calls share attempts where they can. The first new
 * channel that is connected becomes the current one.
 *
 * <p>A new channel is used instead of {@link ManagedChannel#resetConnectBackoff}, because a channel that
 * has failed remains in that state until it is connected again: it does not show that a later attempt
 * has begun or failed, and an attempt that hangs cannot be begun again. A new channel also looks up
 * the brokers' names again.
 *
 * <p>Safe for concurrent use.
 */
final class BrokerChannels {
  /** The minimum time between two attempts. */
  private static final long MIN_SPACING = TimeUnit.MILLISECONDS.toNanos(10);
  /** The minimum age of an attempt in progress, before another one begins beside it. */
  private static final long SPACING = Outage.PROBE;
  /** The age at which an attempt is given up when another one begins. */
  private static final long LIFETIME = TimeUnit.SECONDS.toNanos(2);

  private final Supplier<ManagedChannel> builder;
  private final Outage outage;
  private final Set<Link> open = new HashSet<>();
  /** New channels that are connecting, the oldest first; at most LIFETIME / SPACING. */
  private final Deque<Link> connecting = new ArrayDeque<>();
  private Link current;
  private long lastStart = System.nanoTime() - MIN_SPACING;
  private boolean closed;

  /** A channel that a call uses. The caller must {@link BrokerChannels#release} it. */
  static final class Link {
    final ManagedChannel channel;
    /** {@link System#nanoTime} at which the channel was created. */
    final long began;
    private int calls;
    private boolean retired;
    private boolean silent; // it is connected, but a call was not answered

    private Link(ManagedChannel channel, long began) {
      this.channel = channel;
      this.began = began;
    }

    boolean connected() {
      return channel.getState(false) == ConnectivityState.READY;
    }
  }

  /** @param builder returns a new channel that has not begun to connect */
  BrokerChannels(Supplier<ManagedChannel> builder, Outage outage) {
    this.builder = builder;
    this.outage = outage;
  }

  /**
   * Returns a channel for a call: the current one, or one that began to connect after {@code since}
   * if the current one cannot be used. Waits until another attempt may begin.
   *
   * @param unreachable an earlier call, or attempt of this call, could not reach the brokers
   * @return null if the channels were closed
   */
  synchronized Link acquire(long since, boolean unreachable) throws InterruptedException {
    while (!closed) {
      if (current == null) {
        current = create();
      }
      Link newest = connecting.peekLast();
      if (usable(unreachable)) {
        return used(current);
      }
      if (newest != null && newest.began - since >= 0) {
        return used(newest);
      }
      long wait = (newest == null ? lastStart + MIN_SPACING : newest.began + SPACING) - System.nanoTime();
      if (wait <= 0) {
        return used(connect());
      }
      TimeUnit.NANOSECONDS.timedWait(this, wait);
    }
    return null;
  }

  private boolean usable(boolean unreachable) {
    ConnectivityState state = current.channel.getState(false);
    return state == ConnectivityState.READY
        ? !current.silent
        : !unreachable && state != ConnectivityState.TRANSIENT_FAILURE;
  }

  private static Link used(Link link) {
    link.calls++;
    return link;
  }

  private Link create() {
    Link link = new Link(builder.get(), System.nanoTime());
    open.add(link);
    watch(link);
    return link;
  }

  private Link connect() {
    Link link = create();
    lastStart = link.began;
    while (!connecting.isEmpty() && link.began - connecting.peekFirst().began > LIFETIME) {
      retire(connecting.pollFirst());
    }
    connecting.addLast(link);
    link.channel.getState(true);
    return link;
  }

  /** Follows the state of a channel until it is shut down. */
  private void watch(Link link) {
    ConnectivityState state = link.channel.getState(false);
    changed(link, state);
    if (state != ConnectivityState.SHUTDOWN) {
      link.channel.notifyWhenStateChanged(state, () -> watch(link));
    }
  }

  private synchronized void changed(Link link, ConnectivityState state) {
    if (state != ConnectivityState.READY) {
      link.silent = false;
    }
    boolean ended = state != ConnectivityState.IDLE && state != ConnectivityState.CONNECTING;
    if (ended && connecting.remove(link)) {
      outage.attempted(link.began, System.nanoTime());
      if (state == ConnectivityState.READY) {
        retire(current);
        current = link;
      } else {
        retire(link);
      }
    }
    notifyAll();
  }

  /** Reports that a call on this channel was not answered in time, though it may be connected. */
  synchronized void unanswered(Link link) {
    link.silent = link.connected();
  }

  synchronized void release(Link link) {
    link.calls--;
    if (link.retired) {
      retire(link);
    }
  }

  /** Shuts the channel down as soon as no call uses it. */
  private void retire(Link link) {
    link.retired = true;
    if (link.calls == 0) {
      open.remove(link);
      link.channel.shutdownNow();
    }
  }

  /** Ends all channels, with the calls in progress. */
  synchronized void close() {
    closed = true;
    open.forEach(link -> link.channel.shutdownNow());
    notifyAll();
  }
}

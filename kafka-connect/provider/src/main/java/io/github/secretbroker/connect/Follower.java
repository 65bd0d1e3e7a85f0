package io.github.secretbroker.connect;

import com.google.protobuf.Duration;
import io.github.secretbroker.connect.BrokerChannels.Link;
import io.github.secretbroker.v1.Notice;
import io.github.secretbroker.v1.WatchRequest;
import io.github.secretbroker.v1.WatchResponse;
import io.github.secretbroker.v1.WatchSet;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.lite.ProtoLiteUtils;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BiFunction;
import java.util.function.Function;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Tells subscribers when the secrets that they hold change. All subscriptions of a connection have one
 * stream of WatchService.Watch, with a set for each. If the stream ends, another one begins with the
 * versions that the subscribers have, so no change is lost, however long that takes. If the subscriptions
 * change, the stream is replaced by another one, and ends when the other one is complete.
 *
 * <p>One daemon thread handles everything. It ends a few seconds after the last event, and at the latest
 * with {@link #close}. Safe for concurrent use.
 */
final class Follower implements AutoCloseable {
  private static final Logger LOG = LoggerFactory.getLogger(Follower.class);

  static final MethodDescriptor<WatchRequest, WatchResponse> WATCH =
      MethodDescriptor.<WatchRequest, WatchResponse>newBuilder()
          .setType(MethodDescriptor.MethodType.SERVER_STREAMING)
          .setFullMethodName("secretbroker.v1.WatchService/Watch")
          .setRequestMarshaller(ProtoLiteUtils.marshaller(WatchRequest.getDefaultInstance()))
          .setResponseMarshaller(ProtoLiteUtils.marshaller(WatchResponse.getDefaultInstance()))
          .build();

  /** The maximum number of references of one stream. */
  static final int MAX_REFERENCES = 1_000;
  /** The time in which further changes of the subscriptions are collected. */
  private static final long COLLECT_MS = 50;
  private static final long MIN_BACKOFF_MS = 200;
  private static final long MAX_BACKOFF_MS = 30_000;
  /** A stream that ends sooner does not count as a success. */
  private static final long LASTING = TimeUnit.SECONDS.toNanos(5);
  /** How long a stream may take until it is complete. The broker reports most stores that hang after 30 s. */
  static final long COMPLETE_MS = 60_000;
  /** Longer than a broker keeps a connection. A stream that hangs ends at the latest then. */
  private static final long LIFETIME_SECONDS = 15 * 60;

  private final BrokerChannels channels;
  private final long completeMs;
  private final BiFunction<Link, String, Channel> balanced;
  private final Function<StatusRuntimeException, BrokerException> errors;
  private final ScheduledThreadPoolExecutor thread;
  private final AtomicInteger references = new AtomicInteger();

  // Only the thread uses these.
  private final List<Subscription> subscriptions = new ArrayList<>();
  private Stream current; // null if there is none
  private Stream next; // replaces the current one when it is complete; null if there is none
  private ScheduledFuture<?> opening; // null if no stream is about to be opened
  private int failures; // streams that failed since the last success
  private boolean unreachable;

  /** A subscriber. The thread of the Follower calls it, so it must not wait for anything. */
  interface Listener {
    /** @param index the index of the reference in the subscription */
    void noticed(int index, Notice notice);
  }

  /**
   * @param channels remain the property of the caller
   * @param balanced returns the channel for calls of an integration
   * @param errors converts an error of gRPC
   * @param completeMs how long a stream may take until it is complete, in milliseconds
   */
  Follower(
      BrokerChannels channels, BiFunction<Link, String, Channel> balanced,
      Function<StatusRuntimeException, BrokerException> errors, long completeMs) {
    this.channels = channels;
    this.completeMs = completeMs;
    this.balanced = balanced;
    this.errors = errors;
    thread = new ScheduledThreadPoolExecutor(1, task -> {
      Thread t = new Thread(task, "secretbroker-follow");
      t.setDaemon(true);
      return t;
    }, new ThreadPoolExecutor.DiscardPolicy());
    thread.setKeepAliveTime(5, TimeUnit.SECONDS);
    thread.allowCoreThreadTimeOut(true);
    thread.setRemoveOnCancelPolicy(true);
  }

  /** References of one integration that a subscriber follows, until it closes this. */
  final class Subscription implements AutoCloseable {
    private final Target target;
    private final List<String> names;
    private final List<String> versions; // that the subscriber has; empty if none is known
    private final Listener listener;
    private boolean ended;

    private Subscription(Target target, List<String> names, List<String> versions, Listener listener) {
      this.target = target;
      this.names = names;
      this.versions = new ArrayList<>(versions);
      this.listener = listener;
    }

    private WatchSet set() {
      WatchSet.Builder set = WatchSet.newBuilder().setIntegrationId(target.integration()).setConnector(target.connector());
      for (int i = 0; i < names.size(); i++) {
        set.putConfigs("k" + i, names.get(i));
        if (!versions.get(i).isEmpty()) {
          set.putKnownVersions("k" + i, versions.get(i));
        }
      }
      return set.build();
    }

    private void noticed(Notice notice) {
      int index = indexOf(notice.getConfig());
      if (ended || index < 0 || index >= names.size()) {
        return;
      }
      if (!notice.getVersion().isEmpty()) {
        versions.set(index, notice.getVersion());
      }
      try {
        listener.noticed(index, notice);
      } catch (RuntimeException e) {
        LOG.warn("A subscriber failed: {}", e.getClass().getName()); // its message may contain a value
      }
    }

    /** Ends the subscription. The listener may get one more notice at this moment. */
    @Override
    public void close() {
      thread.execute(() -> {
        if (!ended) {
          ended = true;
          references.addAndGet(-names.size());
          subscriptions.remove(this);
          open(COLLECT_MS);
        }
      });
    }
  }

  private static int indexOf(String config) {
    try {
      return config.startsWith("k") ? Integer.parseInt(config.substring(1)) : -1;
    } catch (NumberFormatException e) {
      return -1;
    }
  }

  /**
   * Begins to follow references. The listener gets the state of each, and then its changes.
   *
   * @param versions those that the subscriber has, in the order of the references; "" for none
   * @return null if the connection follows too many references already
   */
  Subscription follow(Target target, List<String> names, List<String> versions, Listener listener) {
    if (references.addAndGet(names.size()) > MAX_REFERENCES) {
      references.addAndGet(-names.size());
      return null;
    }
    Subscription subscription = new Subscription(target, List.copyOf(names), versions, listener);
    thread.execute(() -> {
      subscriptions.add(subscription);
      open(COLLECT_MS);
    });
    return subscription;
  }

  /** Opens a stream after a time, unless one is about to be opened. */
  private void open(long ms) {
    if (opening == null) {
      opening = thread.schedule(this::openNow, ms, TimeUnit.MILLISECONDS);
    }
  }

  private void openNow() {
    opening = null;
    end(next);
    next = null;
    if (subscriptions.isEmpty()) {
      end(current);
      current = null;
      return;
    }
    try {
      Link link = channels.acquire(System.nanoTime(), unreachable);
      if (link != null) { // not closed
        next = new Stream(link, List.copyOf(subscriptions));
        next.start();
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt(); // by close
    } catch (RuntimeException e) {
      LOG.warn("Cannot open a stream", e);
      next = null;
      open(backoff(MAX_BACKOFF_MS, ++failures));
    }
  }

  private void end(Stream stream) {
    if (stream != null) {
      stream.end("not needed any more");
    }
  }

  private void received(Stream stream, WatchResponse response) {
    stream.heard = true;
    for (Notice notice : response.getNoticesList()) {
      if (notice.getSet() >= 0 && notice.getSet() < stream.sets.size()) {
        stream.sets.get(notice.getSet()).noticed(notice);
      }
    }
    if (response.hasReconnectAfter()) {
      stream.reconnectAfter = Math.min(BrokerException.millis(response.getReconnectAfter()), MAX_BACKOFF_MS * 2);
    }
    if (response.getComplete()) {
      use(stream);
    }
  }

  /** Replaces the current stream by one that has sent all states. */
  private void use(Stream stream) {
    if (stream.complete) {
      return;
    }
    stream.complete = true;
    stream.timeout.cancel(false);
    unreachable = false;
    if (stream == next) {
      end(current);
      current = stream;
      next = null;
    }
    LOG.debug("Following {} sets of references", stream.sets.size());
  }

  /** Gives up a stream on which nothing has arrived. One that waits for a store that hangs is used. */
  private void timeout(Stream stream) {
    if (stream.ended) {
      return;
    }
    if (stream.heard) {
      use(stream);
    } else {
      channels.unanswered(stream.link);
      stream.call.cancel("the broker did not send anything in time", null);
    }
  }

  /** Opens the next stream, unless another one is in use or being opened. */
  private void ended(Stream stream, Status status, Metadata trailers) {
    BrokerException error = status.isOk() ? null : errors.apply(status.asRuntimeException(trailers));
    if (stream != current && stream != next) {
      return;
    }
    current = stream == current ? null : current;
    next = stream == next ? null : next;
    unreachable = error != null && error.unreachable();
    boolean lasted = stream.complete && System.nanoTime() - stream.began > LASTING;
    if (lasted) {
      failures = 0;
    }
    long least = stream.reconnectAfter;
    if (error != null) {
      least = Math.max(least, error.retryAfterMs() < 0 && !error.unreachable() ? MAX_BACKOFF_MS : error.retryAfterMs());
      if (failures == 0) {
        LOG.info("Changes of secrets are not noticed until the next stream begins: {}", error.describeFirst());
      }
    }
    if (next == null) {
      open(backoff(least, failures));
    }
    failures++;
  }

  /** Returns the wait before the next stream in milliseconds, with jitter. */
  static long backoff(long least, int failures) {
    long step = Math.min(MIN_BACKOFF_MS << Math.min(failures, 10), MAX_BACKOFF_MS);
    return Math.max(0, least) + step / 2 + ThreadLocalRandom.current().nextLong(step / 2 + 1);
  }

  /** Ends the stream, and the thread. Subscribers get no more notices. */
  @Override
  public void close() {
    thread.shutdownNow();
  }

  /** One call of Watch. Only the thread uses it, apart from the methods that gRPC calls. */
  private final class Stream extends ClientCall.Listener<WatchResponse> {
    private final Link link;
    private final List<Subscription> sets;
    private final ClientCall<WatchRequest, WatchResponse> call;
    private final long began = System.nanoTime();
    private final ScheduledFuture<?> timeout;
    private boolean heard; // a message has arrived
    private boolean complete; // it has sent all states
    private boolean ended;
    private long reconnectAfter; // milliseconds

    Stream(Link link, List<Subscription> sets) {
      this.link = link;
      this.sets = sets;
      // A stream for several integrations goes to the broker of the first one.
      call = balanced.apply(link, sets.get(0).target.integration()).newCall(WATCH, CallOptions.DEFAULT.withDeadlineAfter(LIFETIME_SECONDS, TimeUnit.SECONDS));
      timeout = thread.schedule(() -> Follower.this.timeout(this), completeMs, TimeUnit.MILLISECONDS);
    }

    void start() {
      WatchRequest.Builder request = WatchRequest.newBuilder();
      sets.forEach(subscription -> request.addSets(subscription.set()));
      call.start(this, new Metadata());
      call.sendMessage(request.build());
      call.halfClose();
      call.request(1);
    }

    void end(String why) {
      ended = true;
      call.cancel(why, null);
    }

    @Override
    public void onMessage(WatchResponse response) {
      thread.execute(() -> {
        if (!ended) {
          received(this, response);
          call.request(1);
        }
      });
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      channels.release(link);
      thread.execute(() -> {
        timeout.cancel(false);
        if (!ended) {
          ended = true;
          Follower.this.ended(this, status, trailers);
        }
      });
    }
  }
}

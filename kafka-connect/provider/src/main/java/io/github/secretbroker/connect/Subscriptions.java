package io.github.secretbroker.connect;

import com.google.protobuf.Timestamp;
import io.github.secretbroker.v1.Notice;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.config.ConfigChangeCallback;
import org.apache.kafka.common.config.ConfigData;
import org.apache.kafka.common.config.ConfigException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The subscriptions of KIP-297: calls back with the values of references when the subscription begins,
 * and again after each change. Callbacks run one after the other, on a daemon thread that ends a few
 * seconds after the last one. Safe for concurrent use.
 */
final class Subscriptions implements AutoCloseable {
  private static final Logger LOG = LoggerFactory.getLogger(Subscriptions.class);

  /** The wait after the first error that does not pass by itself; it doubles each time. */
  private static final long LASTING_ERROR_MS = 500;
  private static final long MAX_LASTING_ERROR_MS = 300_000;

  /** What identifies a subscription; equal ones are one. */
  private record Key(String path, Set<String> keys, ConfigChangeCallback callback) {}

  private final BrokerConnection broker;
  private final ScheduledThreadPoolExecutor thread;
  private final Map<Key, Subscriber> open = new HashMap<>();
  private boolean closed;

  /** @param broker remains the property of the caller */
  Subscriptions(BrokerConnection broker) {
    this.broker = broker;
    thread = new ScheduledThreadPoolExecutor(1, task -> {
      Thread t = new Thread(task, "secretbroker-subscriptions");
      t.setDaemon(true);
      return t;
    }, new ThreadPoolExecutor.DiscardPolicy());
    thread.setKeepAliveTime(5, TimeUnit.SECONDS);
    thread.allowCoreThreadTimeOut(true);
    thread.setRemoveOnCancelPolicy(true);
  }

  /**
   * Begins a subscription.
   *
   * @param target what the path names
   * @param references the keys in an order that is the same for equal sets
   * @throws BrokerException if a reference cannot be resolved; there is no subscription then
   */
  void subscribe(String path, Target target, List<String> references, ConfigChangeCallback callback) throws BrokerException {
    Answer answer = broker.resolve(target, references);
    Key key = new Key(path, Set.copyOf(references), callback);
    synchronized (this) {
      if (closed || open.containsKey(key)) {
        return;
      }
      Subscriber subscriber = new Subscriber(key, target, references);
      subscriber.subscription = broker.follower().follow(target, references, answer.versions(), subscriber);
      if (subscriber.subscription == null) {
        throw new ConfigException("secretbroker: there are subscriptions for " + Follower.MAX_REFERENCES
            + " references already; end some of them");
      }
      open.put(key, subscriber);
      thread.execute(() -> subscriber.call(answer));
    }
  }

  /** Ends a subscription, if there is one. It does not wait for a callback that is about to run. */
  synchronized void unsubscribe(String path, Set<String> keys, ConfigChangeCallback callback) {
    Subscriber subscriber = open.remove(new Key(path, Set.copyOf(keys), callback));
    if (subscriber != null) {
      subscriber.end();
    }
  }

  /** Ends all subscriptions; see {@link #unsubscribe}. */
  synchronized void unsubscribeAll() {
    open.values().forEach(Subscriber::end);
    open.clear();
  }

  private synchronized boolean isOpen(Subscriber subscriber) {
    return open.get(subscriber.key) == subscriber;
  }

  @Override
  public void close() {
    synchronized (this) {
      closed = true;
    }
    unsubscribeAll();
    thread.shutdownNow();
  }

  /** One subscription. Only the thread uses the fields that are not final. */
  private final class Subscriber implements Follower.Listener {
    private final Key key;
    private final Target target;
    private final List<String> references;
    private Follower.Subscription subscription; // set before any callback
    private Timestamp since; // of the last notice; null if there was none with a time
    private List<String> versions = List.of(); // of the last callback
    private boolean changed; // a notice said so, since the last callback
    private boolean expected; // get will run
    private int failures;
    private Future<?> retry; // that waits; null without one
    private boolean warned; // of an error, since the last notice

    Subscriber(Key key, Target target, List<String> references) {
      this.key = key;
      this.target = target;
      this.references = references;
    }

    @Override
    public void noticed(int index, Notice notice) {
      switch (notice.getState()) {
        case STATE_CHANGED -> thread.execute(() -> {
          changed = true;
          if (!notice.getGenerated() && (since == null || JdbcLogins.later(notice.getFetchTime(), since))) {
            since = notice.getFetchTime();
          }
          getSoon();
        });
        case STATE_EXPIRING -> {
          if (notice.getGenerated()) { // the broker renews the credential, or has another one
            thread.execute(this::getSoon);
          }
        }
        case STATE_DENIED -> LOG.warn("Integration {}: {} may not be read any more", target.integration(), references.get(index));
        default -> { }
      }
    }

    private void getSoon() {
      failures = 0;
      warned = false;
      cancelRetry();
      if (!expected) { // notices that arrived together have one callback
        expected = true;
        thread.execute(this::get);
      }
    }

    private void get() {
      expected = false;
      retry = null;
      if (!isOpen(this)) {
        return;
      }
      try {
        Answer answer = broker.resolveSince(target, references, broker.maxAge(), since);
        if (changed || !answer.versions().equals(versions)) {
          call(answer);
        }
      } catch (BrokerException e) {
        if (!isOpen(this)) {
          return;
        }
        // An error that does not pass by itself may be of a replica that has not seen a grant yet.
        boolean lasting = e.retryAfterMs() < 0;
        if (lasting && !warned) {
          warned = true;
          LOG.warn("{}; trying again", e.describe(target.integration(), references));
        } else {
          LOG.debug("{}", e.describe(target.integration(), references));
        }
        expected = true;
        long least = lasting ? Math.min(LASTING_ERROR_MS << Math.min(failures, 10), MAX_LASTING_ERROR_MS) : e.retryAfterMs();
        retry = thread.schedule(this::get, Follower.backoff(least, failures++), TimeUnit.MILLISECONDS);
      }
    }

    private void cancelRetry() {
      if (retry != null) {
        retry.cancel(false);
        retry = null;
        expected = false;
      }
    }

    /** Ends the subscription; it may be called by any thread. */
    private void end() {
      subscription.close();
      thread.execute(this::cancelRetry); // so that the thread can end
    }

    private void call(Answer answer) {
      if (!isOpen(this)) {
        return;
      }
      changed = false;
      versions = answer.versions();
      Map<String, String> values = new HashMap<>();
      for (int i = 0; i < references.size(); i++) {
        values.put(references.get(i), answer.values().get(i));
      }
      try {
        key.callback().onChange(key.path(), new ConfigData(values, answer.timeLeftMs()));
      } catch (RuntimeException e) {
        LOG.warn("A callback failed: {}", e.getClass().getName()); // its message may contain a value
      }
    }
  }
}

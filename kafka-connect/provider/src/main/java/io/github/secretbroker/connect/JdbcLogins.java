package io.github.secretbroker.connect;

import com.google.protobuf.Timestamp;
import io.github.secretbroker.v1.Notice;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Gets the credentials for each login of a JDBC connector, and follows their changes: a login after a
 * notice has the version of the notice or a later one, whichever broker answers. While no broker can be
 * reached, logins have the last credentials, until these expire or access to them is lost. Credentials that
 * were generated for a broker are resolved again before they end, so that the broker renews them for the
 * connections that are open.
 *
 * <p>Safe for concurrent use. It does not refer to the provider, which may be discarded without being
 * closed.
 */
final class JdbcLogins implements AutoCloseable, Follower.Listener {
  private static final Logger LOG = LoggerFactory.getLogger(JdbcLogins.class);

  private final BrokerConnection broker;
  private final Target target;
  private final List<String> references;

  private Follower.Subscription subscription; // null before the first login
  private boolean followed; // follow was called
  private Timestamp since; // of the last notice, null if there was none
  private int denials; // number of notices that access is lost
  private char[][] last; // null if there is none
  private long lastEnd; // the System.nanoTime at which last expires
  private boolean closed;
  private boolean renewing; // renew is running

  /** @param broker is closed by {@link #close} */
  JdbcLogins(BrokerConnection broker, Target target, List<String> references) {
    this.broker = broker;
    this.target = target;
    this.references = references;
  }

  String integration() {
    return target.integration();
  }

  List<String> references() {
    return references;
  }

  /**
   * Returns the values of the references.
   *
   * @param fromStore the last ones do not work: the broker reads the store instead of its cache
   */
  List<String> get(boolean fromStore) throws BrokerException {
    Told told = told();
    try {
      Answer answer = broker.resolveSince(target, references, fromStore ? Duration.ZERO : broker.maxAge(), told.since());
      keep(answer, told);
      return answer.values();
    } catch (BrokerException e) {
      boolean temporary = e.retryAfterMs() >= 0;
      if (!temporary && !e.unreachable()) { // access is lost, for example, and no notice has said so yet
        forget();
      }
      List<String> values = temporary && e.unreachable() && !fromStore ? last() : null;
      if (values == null) {
        throw e;
      }
      LOG.warn("Integration {}: a login uses the last credentials: {}", target.integration(), e.describeFirst());
      return values;
    }
  }

  /** What the notices have told when a call begins. */
  private record Told(Timestamp since, int denials) {}

  private synchronized Told told() {
    return new Told(since, denials);
  }

  private synchronized void keep(Answer answer, Told told) {
    if (closed || told.since() != since || told.denials() != denials) { // a newer version, or no access any more
      return;
    }
    forget();
    last = answer.values().stream().map(String::toCharArray).toArray(char[][]::new);
    long left = answer.timeLeftMs() == null ? TimeUnit.DAYS.toMillis(365) : answer.timeLeftMs();
    lastEnd = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(Math.min(left, TimeUnit.DAYS.toMillis(365)));
    if (!followed) {
      followed = true;
      subscription = broker.follower().follow(target, references, answer.versions(), this);
      if (subscription == null) {
        LOG.warn("Integration {}: too many references are followed; changes are noticed at the end of the broker's cache",
            target.integration());
      }
    }
  }

  private synchronized List<String> last() {
    return last == null || lastEnd - System.nanoTime() <= 0 ? null : Arrays.stream(last).map(String::new).toList();
  }

  private synchronized void forget() {
    if (last != null) {
      SharedCalls.overwrite(last);
      last = null;
    }
  }

  @Override
  public synchronized void noticed(int index, Notice notice) {
    switch (notice.getState()) {
      case STATE_CHANGED -> {
        LOG.info("Integration {}: the next login has version {}", target.integration(), notice.getVersion());
        if (!notice.getGenerated() && (since == null || later(notice.getFetchTime(), since))) {
          since = notice.getFetchTime();
        }
      }
      case STATE_EXPIRING -> {
        if (notice.getGenerated() && !renewing && !closed) {
          renewing = true;
          Thread thread = new Thread(this::renew, "secretbroker-renew"); // the Follower's must not wait
          thread.setDaemon(true);
          thread.start();
        }
      }
      case STATE_DENIED -> {
        denials++;
        forget();
      }
      default -> { }
    }
  }

  private void renew() {
    try {
      get(false);
    } catch (BrokerException e) { // the next login has its own
      LOG.info("Integration {}: the credentials were not renewed: {}", target.integration(), e.describeFirst());
    } finally {
      synchronized (this) {
        renewing = false;
      }
    }
  }

  static boolean later(Timestamp a, Timestamp b) {
    return a.getSeconds() != b.getSeconds() ? a.getSeconds() > b.getSeconds() : a.getNanos() > b.getNanos();
  }

  /** Overwrites the credentials and closes the connection. */
  @Override
  public void close() {
    synchronized (this) {
      if (closed) {
        return;
      }
      closed = true;
      forget();
      if (subscription != null) {
        subscription.close();
      }
    }
    broker.close();
  }
}

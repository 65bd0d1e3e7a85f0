package io.github.secretbroker.connect;

import io.github.secretbroker.v1.ResolveRequest;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/**
 * Lets calls for the same references share one call of the broker. A worker that starts a connector
 * resolves its references several times, and once more for each task, within a moment. They share one
 * answer, so the tasks also have the same version.
 *
 * <p>A call joins another one with an equal request that is in progress, or that was answered less
 * than {@link #HOLD} ago. Every field of the request must be equal, also its connector and its maximum
 * age. The values are overwritten at the end of that time, unless a joined call still waits for its
 * thread to run.
 *
 * <p>Errors of the broker are shared with the calls that have joined, and never with later ones. If
 * the call that others have joined fails for another reason, such as a broken connection or the
 * interrupt of its thread, the others make their own calls. No call waits for another one longer than
 * until its own end.
 *
 * <p>Safe for concurrent use.
 */
final class SharedCalls implements AutoCloseable {
  /** How long an answer is shared, in nanoseconds. */
  static final long HOLD = TimeUnit.MILLISECONDS.toNanos(100);
  /** How long the thread that overwrites values is kept without work, in nanoseconds. */
  static final long THREAD_KEPT = TimeUnit.SECONDS.toNanos(1);
  /** A call with less time left than this does not begin another attempt. */
  private static final long LEAST = TimeUnit.MILLISECONDS.toNanos(100);

  private final BrokerConnection broker;
  private final long hold;
  private final Map<ResolveRequest, Shared> open = new HashMap<>();
  private ScheduledThreadPoolExecutor timer; // null before the first answer and after close
  private int kept; // calls whose values are in memory
  private boolean closed;

  /**
   * @param broker remains the property of the caller
   * @param hold how long an answer is shared, in nanoseconds; with 0 calls only join calls in progress
   */
  SharedCalls(BrokerConnection broker, long hold) {
    this.broker = broker;
    this.hold = hold;
  }

  /** A call that others may join. Its fields belong to the lock of the SharedCalls. */
  private static final class Shared {
    private final CountDownLatch done = new CountDownLatch(1);
    private final long joinable; // how long after the begin others may join a call in progress
    private final long began;
    private long until; // until when others may join, once it is answered
    private int joined; // calls that still need the result
    private boolean ended; // no more calls may join
    private BrokerException failure;
    private char[][] values; // null if there are none (any more)
    private long answered;
    private List<String> versions;
    private Long timeLeftMs;

    Shared(long began, long joinable) {
      this.began = began;
      this.joinable = joinable;
    }

    boolean mayBeJoined(long now) {
      if (ended) {
        return false;
      }
      return done.getCount() > 0 ? now - began <= joinable : until - now > 0;
    }

    void keep(Answer answer, long now, long hold) {
      values = answer.values().stream().map(String::toCharArray).toArray(char[][]::new);
      versions = answer.versions();
      timeLeftMs = answer.timeLeftMs();
      answered = now;
      long left = timeLeftMs == null ? hold : TimeUnit.MILLISECONDS.toNanos(Math.min(timeLeftMs, 1000));
      until = now + Math.min(hold, left);
      if (joinable != Long.MAX_VALUE && until - began > joinable) {
        until = began + joinable;
      }
    }

    /** Returns a copy of the answer, or null if there is none. */
    Answer copy(long now) {
      if (values == null) {
        return null;
      }
      Long left = timeLeftMs == null ? null : timeLeftMs - TimeUnit.NANOSECONDS.toMillis(now - answered);
      return new Answer(Arrays.stream(values).map(String::new).toList(), versions, left == null || left < 1 ? null : left);
    }

  }

  /** Overwrites the values of a call that no other call can join or waits for. */
  private void wipe(Shared call) {
    if (call.values != null && call.joined == 0) {
      overwrite(call.values);
      call.values = null;
      kept--;
    }
  }

  static void overwrite(char[][] values) {
    Arrays.stream(values).forEach(value -> Arrays.fill(value, '\0'));
  }

  /**
   * Resolves all references, with another call or an own one.
   *
   * @param references in an order that is the same for equal sets
   * @throws BrokerException if a reference could not be resolved
   */
  Answer resolve(Target target, List<String> references) throws BrokerException {
    java.time.Duration maxAge = broker.maxAge();
    long joinable = Long.MAX_VALUE;
    if (maxAge != null) {
      if (maxAge.toNanos() < 10 * hold) {
        return broker.resolve(target, references);
      }
      // A value that is shared is older by the time for which it is shared.
      maxAge = maxAge.minusNanos(hold);
      joinable = hold;
    }
    return resolve(BrokerConnection.request(target, references, maxAge), broker.deadline(), joinable);
  }

  /**
   * Like the other method.
   *
   * @param end the end of the call
   * @param joinable how long after its begin others may join this call, in nanoseconds
   */
  Answer resolve(ResolveRequest request, long end, long joinable) throws BrokerException {
    if (broker.unreachable()) { // a call must not wait for an attempt that began before it
      return broker.resolve(request, end);
    }
    long began = System.nanoTime();
    Shared call;
    boolean first;
    synchronized (this) {
      call = open.get(request);
      first = call == null || !call.mayBeJoined(began);
      if (first) {
        call = new Shared(began, joinable);
        open.put(request, call);
      } else {
        call.joined++;
      }
    }
    return first ? lead(request, end, call) : join(request, end, call, began);
  }

  private Answer lead(ResolveRequest request, long end, Shared call) throws BrokerException {
    Answer answer = null;
    BrokerException failure = null;
    try {
      answer = broker.resolve(request, end);
      return answer;
    } catch (BrokerException e) {
      failure = e;
      throw e;
    } finally {
      ended(request, call, answer, failure);
    }
  }

  private synchronized void ended(ResolveRequest request, Shared call, Answer answer, BrokerException failure) {
    call.failure = failure;
    long now = System.nanoTime();
    if (answer != null && !closed) {
      call.keep(answer, now, hold);
      kept++;
    }
    long left = call.until - now;
    if (call.values == null || left <= 0) {
      remove(request, call);
    } else {
      timer().schedule(() -> remove(request, call), left, TimeUnit.NANOSECONDS);
    }
    call.done.countDown();
  }

  private ScheduledThreadPoolExecutor timer() {
    if (timer == null) {
      timer = new ScheduledThreadPoolExecutor(1, task -> {
        Thread thread = new Thread(task, "secretbroker-shared-calls");
        thread.setDaemon(true);
        return thread;
      });
      timer.setExecuteExistingDelayedTasksAfterShutdownPolicy(false);
      timer.setKeepAliveTime(THREAD_KEPT, TimeUnit.NANOSECONDS);
      timer.allowCoreThreadTimeOut(true);
    }
    return timer;
  }

  private synchronized void remove(ResolveRequest request, Shared call) {
    open.remove(request, call);
    call.ended = true;
    wipe(call);
  }

  private Answer join(ResolveRequest request, long end, Shared call, long began) throws BrokerException {
    Answer answer;
    try {
      if (!call.done.await(end - System.nanoTime(), TimeUnit.NANOSECONDS)) {
        throw broker.unanswered();
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw broker.interrupted();
    } finally {
      answer = leave(call);
    }
    if (answer != null) {
      broker.joined(answer.values().size(), System.nanoTime() - began);
      return answer;
    }
    BrokerException failure = call.failure;
    if (failure != null && (failure.fromBroker() || end - System.nanoTime() < LEAST)) {
      throw failure;
    }
    return broker.resolve(request, end);
  }

  /** Ends the wait of a joined call. Returns its answer, or null. */
  private synchronized Answer leave(Shared call) {
    Answer answer = call.copy(System.nanoTime());
    call.joined--;
    if (call.ended) {
      wipe(call);
    }
    return answer;
  }

  /** Returns the number of calls whose values are in memory. */
  synchronized int kept() {
    return kept;
  }

  /** Returns the number of threads that overwrite values: at most one. */
  synchronized int threads() {
    return timer == null ? 0 : timer.getPoolSize();
  }

  /** Returns the number of calls that others may join, and of those that have joined and wait. */
  synchronized int waiting() {
    return open.values().stream().mapToInt(call -> 1 + call.joined).sum();
  }

  /** Overwrites all values. Calls in progress end with the connection, which the caller closes. */
  @Override
  public synchronized void close() {
    closed = true;
    List.copyOf(open.entrySet()).forEach(entry -> remove(entry.getKey(), entry.getValue()));
    if (timer != null) {
      timer.shutdownNow();
      timer = null;
    }
  }
}

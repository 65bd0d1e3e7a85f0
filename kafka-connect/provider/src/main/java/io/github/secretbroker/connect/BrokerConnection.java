package io.github.secretbroker.connect;

import com.google.common.util.concurrent.ListenableFuture;
import com.google.protobuf.Duration;
import com.google.protobuf.Timestamp;
import io.github.secretbroker.connect.BrokerChannels.Link;
import io.github.secretbroker.connect.TlsFiles.UnusableException;
import io.github.secretbroker.v1.ResolveRequest;
import io.github.secretbroker.v1.ResolveResponse;
import io.grpc.CallOptions;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.lite.ProtoLiteUtils;
import io.grpc.stub.ClientCalls;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.kafka.common.config.ConfigException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The connection of a worker to its brokers. Providers with equal settings share it; the last one
 * that closes it shuts it down. It connects on first use. Safe for concurrent use.
 */
final class BrokerConnection implements AutoCloseable {
  private static final Logger LOG = LoggerFactory.getLogger(BrokerConnection.class);

  private static final MethodDescriptor<ResolveRequest, ResolveResponse> RESOLVE =
      MethodDescriptor.<ResolveRequest, ResolveResponse>newBuilder()
          .setType(MethodDescriptor.MethodType.UNARY)
          .setFullMethodName("secretbroker.v1.ResolverService/Resolve")
          .setRequestMarshaller(ProtoLiteUtils.marshaller(ResolveRequest.getDefaultInstance()))
          .setResponseMarshaller(ProtoLiteUtils.marshaller(ResolveResponse.getDefaultInstance()))
          .build();

  private static final long MIN_BACKOFF_MS = 100;
  /** Short, because most attempts are cheap: a refused connection fails immediately. */
  private static final long MAX_BACKOFF_MS = 250;

  private static final long STARTUP_LOG_INTERVAL = TimeUnit.SECONDS.toNanos(10);

  private static final Map<Settings, BrokerConnection> OPEN = new HashMap<>();
  private static volatile boolean everResolved;

  private final Settings settings;
  private final ReloadingSslContext tls;
  private final Statistics statistics;
  private int users; // within OPEN
  private final Outage outage = new Outage();
  private final BrokerChannels channels;
  private final Follower follower;
  private final CountDownLatch closed = new CountDownLatch(1);

  private BrokerConnection(Settings settings) throws UnusableException {
    this.settings = settings;
    this.tls = new ReloadingSslContext(settings.tls());
    this.statistics = Statistics.register(settings.clientId());
    this.channels = new BrokerChannels(() -> BrokerTransport.build(settings, tls), outage);
    this.follower = follower(Follower.COMPLETE_MS);
  }

  /**
   * Returns the connection for these settings. Callers with equal settings share it.
   *
   * @throws ConfigException if the TLS files cannot be used
   */
  static BrokerConnection acquire(Settings settings) {
    synchronized (OPEN) {
      BrokerConnection open = OPEN.get(settings);
      if (open == null) {
        try {
          open = new BrokerConnection(settings);
        } catch (UnusableException e) {
          throw new ConfigException("secretbroker: " + e.getMessage());
        }
        OPEN.put(settings, open);
        LOG.info("Resolving secrets through the broker at {}, {}", settings.brokers(), open.tls.describe());
      }
      open.users++;
      return open;
    }
  }

  @Override
  public void close() {
    synchronized (OPEN) {
      if (--users > 0) {
        return;
      }
      OPEN.remove(settings);
    }
    statistics.unregister();
    closed.countDown(); // calls in progress end now
    follower.close();
    channels.close();
  }

  /**
   * Resolves all references in one call. It retries temporary errors until the timeout.
   *
   * @throws BrokerException if a reference could not be resolved
   */
  Answer resolve(Target target, List<String> references) throws BrokerException {
    return resolve(request(target, references, settings.maxAge()), deadline());
  }

  /**
   * Like the other method, but the broker must have begun to read the values at or after a time.
   *
   * @param maxAge the maximum age of values, counted from their read; null for any
   * @param since by a broker's clock, from a notice; null for any
   */
  Answer resolveSince(Target target, List<String> references, java.time.Duration maxAge, Timestamp since)
      throws BrokerException {
    long end = deadline();
    ResolveRequest request = request(target, references, maxAge);
    if (since == null) {
      return resolve(request, end);
    }
    try {
      return resolve(request.toBuilder().setNotReadBefore(since).build(), end);
    } catch (BrokerException e) {
      if (!e.faults().get(0).reason().equals("INVALID_REQUEST")) {
        throw e;
      }
      // The clock of the broker is behind that of the one that sent the notice. A read of the store now is
      // as good.
      return resolve(request(target, references, java.time.Duration.ZERO), end);
    }
  }

  /**
   * Like the other method, with a request of {@link #request}.
   *
   * @param end the {@link System#nanoTime} until which the call may take; see {@link #deadline}
   */
  Answer resolve(ResolveRequest request, long end) throws BrokerException {
    long began = System.nanoTime();
    Call call = new Call(request, end);
    call.unreachable = outage.arrive(began);
    return resolve(call, began);
  }

  /** Returns the end of a call that begins now. */
  long deadline() {
    return System.nanoTime() + settings.timeout().toNanos();
  }

  /** Returns the maximum age of values in the settings, null for no maximum. */
  java.time.Duration maxAge() {
    return settings.maxAge();
  }

  /** Reports whether the last call could not reach a broker. */
  boolean unreachable() {
    return outage.lasts();
  }

  /** Counts a set of references that was answered by another call, after a wait in nanoseconds. */
  void joined(int references, long took) {
    statistics.joined(references, took);
  }

  /** Returns the error of a call that waited for another one until its own end. */
  BrokerException unanswered() {
    return errorOf(Status.DEADLINE_EXCEEDED.asRuntimeException());
  }

  /** Returns the error of a call whose thread was interrupted. */
  BrokerException interrupted() {
    return errorOf(Status.CANCELLED.asRuntimeException());
  }

  private BrokerException errorOf(StatusRuntimeException e) {
    return BrokerException.of(e, settings.brokers(), tls.describe());
  }

  /** Returns another Follower; see its constructor. The caller closes it. */
  Follower follower(long completeMs) {
    return new Follower(
        channels, (link, integration) -> BrokerTransport.channel(settings, link, integration), this::errorOf, completeMs);
  }

  /** Returns what tells subscribers of changes. It ends with the connection. */
  Follower follower() {
    return follower;
  }

  /**
   * Like the other method, for the configuration of the process itself, which ends if this method
   * throws. Waits longer for a broker, and for a store.
   */
  Answer resolveAtStartup(Target target, List<String> references) throws BrokerException {
    long began = System.nanoTime();
    long most = Math.max(settings.startupTimeout().toNanos(), settings.timeout().toNanos());
    Call call = new Call(request(target, references, settings.maxAge()), began + most);
    call.startup = true;
    outage.arrive(began);
    return resolve(call, began);
  }

  /** Reports whether a set of references was resolved since this class was loaded. */
  static boolean everResolved() {
    return everResolved;
  }

  /** A set of references that is being resolved. Confined to one thread. */
  private static final class Call {
    private final ResolveRequest request;
    private final int references;
    private final long end;
    private boolean unreachable; // an earlier call, or an earlier attempt of this one, could not reach a broker
    private boolean startup;
    private int attempts;
    private long logged; // the time of the last log at startup

    Call(ResolveRequest request, long end) {
      this.request = request;
      this.references = request.getConfigsCount();
      this.end = end;
    }
  }

  private Answer resolve(Call call, long began) throws BrokerException {
    boolean impatient = call.unreachable;
    boolean unreachable = false;
    try {
      while (true) {
        call.attempts++;
        try {
          Answer answer = once(call, impatient);
          everResolved = true;
          statistics.answered(call.references, System.nanoTime() - began);
          return answer;
        } catch (BrokerException e) {
          unreachable = e.unreachable();
          long end = impatient && unreachable ? sooner(outage.burstEnd(), call.end) : call.end;
          long wait = waitBefore(e, call.attempts, end);
          if (wait >= 0 && call.startup) {
            logStartup(e, call);
          }
          if (wait < 0 || !sleep(wait)) {
            statistics.failed(System.nanoTime() - began);
            throw closed.getCount() == 0 ? BrokerException.closed() : e;
          }
          call.unreachable |= unreachable;
          statistics.retried();
        }
      }
    } finally {
      outage.leave(System.nanoTime(), unreachable);
    }
  }

  private static long sooner(long a, long b) {
    return a - b < 0 ? a : b;
  }

  private void logStartup(BrokerException e, Call call) {
    long now = System.nanoTime();
    if (call.attempts == 1 || now - call.logged > STARTUP_LOG_INTERVAL) {
      call.logged = now;
      LOG.warn("Waiting at most {} s for the secrets in the configuration of this process ({}): {}",
          TimeUnit.NANOSECONDS.toSeconds(call.end - now), Settings.STARTUP_TIMEOUT_MS, e.describeFirst());
    }
  }

  /** Returns the request for these references, with the names k0, k1 and so on. */
  static ResolveRequest request(Target target, List<String> references, java.time.Duration maxAge) {
    ResolveRequest.Builder request =
        ResolveRequest.newBuilder().setIntegrationId(target.integration()).setConnector(target.connector()).setAllowPartial(true);
    for (int i = 0; i < references.size(); i++) {
      request.putConfigs("k" + i, references.get(i));
    }
    if (maxAge != null) {
      long ms = maxAge.toMillis();
      request.setMaxAge(Duration.newBuilder().setSeconds(ms / 1000).setNanos((int) (ms % 1000) * 1_000_000));
    }
    return request.build();
  }

  /**
   * Makes one attempt.
   *
   * @param impatient the call waits for a connection only as long as {@link Outage} allows
   */
  private Answer once(Call call, boolean impatient) throws BrokerException {
    Link link = null;
    ResolveResponse response;
    try {
      link = channels.acquire(System.nanoTime(), call.unreachable);
      if (link == null) {
        throw BrokerException.closed();
      }
      long end = sooner(call.end, System.nanoTime() + settings.timeout().toNanos());
      response = exchange(link, call.request, impatient ? sooner(outage.end(link.began), end) : end, end);
    } catch (StatusRuntimeException e) {
      BrokerException told = errorOf(e);
      if (told.unreachable() && e.getStatus().getCode() == Status.Code.DEADLINE_EXCEEDED) {
        channels.unanswered(link);
      }
      throw told;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw interrupted();
    } finally {
      if (link != null) {
        channels.release(link);
      }
    }
    String integration = call.request.getIntegrationId();
    LOG.debug("Integration {}: {} of {} references resolved, request {}",
        integration, response.getConfigsCount(), call.references, response.getRequestId());
    return Answer.of(integration, call.references, response);
  }

  /**
   * Sends the request and waits for the response.
   *
   * @param connectEnd the end of the wait for a connection
   * @param end the end of the wait for a response, at or after connectEnd
   */
  private ResolveResponse exchange(Link link, ResolveRequest request, long connectEnd, long end)
      throws InterruptedException {
    CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(Math.max(1, end - System.nanoTime()), TimeUnit.NANOSECONDS);
    ListenableFuture<ResolveResponse> response =
        ClientCalls.futureUnaryCall(BrokerTransport.channel(settings, link, request.getIntegrationId()).newCall(RESOLVE, options), request);
    try {
      if (connectEnd != end) {
        try {
          return response.get(Math.max(0, connectEnd - System.nanoTime()), TimeUnit.NANOSECONDS);
        } catch (TimeoutException e) {
          if (!link.connected()) {
            throw Status.DEADLINE_EXCEEDED.asRuntimeException();
          }
        }
      }
      return response.get(); // until its deadline
    } catch (ExecutionException e) {
      throw e.getCause() instanceof StatusRuntimeException status
          ? status
          : Status.UNKNOWN.withCause(e.getCause()).asRuntimeException();
    } finally {
      response.cancel(true); // has no effect after a response
    }
  }

  /** Returns the wait before the next attempt in milliseconds, or -1 if there must be none. */
  private static long waitBefore(BrokerException e, int attempt, long end) {
    long least = e.retryAfterMs();
    if (least < 0) {
      return -1;
    }
    long step = Math.min(MIN_BACKOFF_MS << Math.min(attempt - 1, 8), MAX_BACKOFF_MS);
    // Jitter, so that calls that failed together do not retry together.
    long wait = least + step / 2 + ThreadLocalRandom.current().nextLong(step / 2 + 1);
    return TimeUnit.MILLISECONDS.toNanos(wait) < end - System.nanoTime() ? wait : -1;
  }

  /** Waits. Returns false if the thread was interrupted or the connection was closed. */
  private boolean sleep(long ms) {
    try {
      return !closed.await(ms, TimeUnit.MILLISECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      return false;
    }
  }
}

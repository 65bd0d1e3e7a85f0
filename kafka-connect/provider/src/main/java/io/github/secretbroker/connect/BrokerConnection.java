package io.github.secretbroker.connect;

import com.google.protobuf.Duration;
import io.github.secretbroker.connect.TlsFiles.UnusableException;
import io.github.secretbroker.v1.ConfigError;
import io.github.secretbroker.v1.ResolveRequest;
import io.github.secretbroker.v1.ResolveResponse;
import io.github.secretbroker.v1.ResolvedConfig;
import io.grpc.CallOptions;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.NameResolverRegistry;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.lite.ProtoLiteUtils;
import io.grpc.stub.ClientCalls;
import io.netty.channel.ChannelOption;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.config.ConfigException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The channel of a worker to its brokers. Providers with equal settings share it; the last one that
 * closes it shuts it down. It connects on first use. Safe for concurrent use.
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

  /** Enough for hundreds of secrets of the maximum size that a store allows. */
  private static final int MAX_RESPONSE_BYTES = 16 << 20;
  private static final int MAX_TRAILER_BYTES = 64 << 10;
  /** The maximum wait for brokers that the previous call could not reach. */
  private static final long IMPATIENT_MS = 2_000;
  /** The time that is left for a call to get the current error, if no broker was connected. */
  private static final long OUTAGE_WAIT_MS = 100;
  private static final long POLL_MS = 10;
  private static final long MIN_BACKOFF_MS = 100;
  /** Short, because most attempts are cheap: a channel without a connection fails immediately. */
  private static final long MAX_BACKOFF_MS = 250;

  private static final int CONNECT_TIMEOUT_MS = 2_000;

  private static final Map<Settings, BrokerConnection> OPEN = new HashMap<>();

  static {
    TransportLog.quiet();
    NameResolverRegistry.getDefaultRegistry().register(new BrokerAddresses.Provider());
  }

  private final Settings settings;
  private final ReloadingSslContext tls;
  private final Statistics statistics;
  private int users; // within OPEN
  private ManagedChannel channel; // within this
  private volatile Outage outage; // null if the last call reached a broker
  private final CountDownLatch closed = new CountDownLatch(1);

  /**
   * The failure of a call that could not reach the brokers.
   *
   * @param silent a broker was connected, and did not answer
   */
  private record Outage(boolean silent) {}

  private BrokerConnection(Settings settings) throws UnusableException {
    this.settings = settings;
    this.tls = new ReloadingSslContext(settings.tls());
    this.statistics = Statistics.register(settings.clientId());
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
    synchronized (this) {
      if (channel != null) {
        channel.shutdownNow();
      }
    }
  }

  /**
   * Resolves all references in one call. It retries temporary errors until the timeout.
   *
   * @throws BrokerException if a reference could not be resolved
   */
  Answer resolve(String integration, List<String> references) throws BrokerException {
    return resolve(integration, references, settings.maxAge());
  }

  /** Like the other method, with the maximum age of values, counted from their read; null for any. */
  Answer resolve(String integration, List<String> references, java.time.Duration maxAge) throws BrokerException {
    long began = System.nanoTime();
    Outage before = outage;
    long end = before == null ? began + settings.timeout().toNanos() : endAfter(before, began);
    ResolveRequest request = request(integration, references, maxAge);
    for (int attempt = 1; ; attempt++) {
      try {
        Answer answer = once(request, references.size(), end);
        outage = null;
        statistics.answered(references.size(), System.nanoTime() - began);
        return answer;
      } catch (BrokerException e) {
        long wait = waitBefore(e, attempt, end);
        if (wait < 0 || !sleep(wait)) {
          outage = e.unreachable() ? new Outage(ready()) : null;
          statistics.failed(System.nanoTime() - began);
          throw closed.getCount() == 0 ? BrokerException.closed() : e;
        }
        statistics.retried();
      }
    }
  }

  /**
   * Returns the end of a call that began after an outage. It has the whole timeout as soon as there
   * is a connection, because then only a store may be slow, and little time otherwise.
   */
  private long endAfter(Outage before, long began) {
    long whole = began + settings.timeout().toNanos();
    long impatient = Math.min(whole, began + TimeUnit.MILLISECONDS.toNanos(IMPATIENT_MS));
    if (before.silent()) {
      return impatient;
    }
    return becomesReady(began, IMPATIENT_MS)
        ? whole
        : System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(OUTAGE_WAIT_MS); // to get the current error
  }

  /** Waits until a broker is connected, at most ms from began on. Reports whether one is. */
  private boolean becomesReady(long began, long ms) {
    while (!ready()) {
      if (System.nanoTime() - began >= TimeUnit.MILLISECONDS.toNanos(ms) || !sleep(POLL_MS)) {
        return false;
      }
    }
    return true;
  }

  /** Reports whether a broker is connected, and otherwise makes the channel connect now. */
  private boolean ready() {
    ManagedChannel open = channel();
    ConnectivityState state = open.getState(true);
    if (state == ConnectivityState.TRANSIENT_FAILURE) {
      open.resetConnectBackoff(); // it may have grown to two minutes
    }
    return state == ConnectivityState.READY;
  }

  private static ResolveRequest request(String integration, List<String> references, java.time.Duration maxAge) {
    ResolveRequest.Builder request = ResolveRequest.newBuilder().setIntegrationId(integration).setAllowPartial(true);
    for (int i = 0; i < references.size(); i++) {
      request.putConfigs("k" + i, references.get(i));
    }
    if (maxAge != null) {
      long ms = maxAge.toMillis();
      request.setMaxAge(Duration.newBuilder().setSeconds(ms / 1000).setNanos((int) (ms % 1000) * 1_000_000));
    }
    return request.build();
  }

  private Answer once(ResolveRequest request, int count, long end) throws BrokerException {
    ManagedChannel open = channel();
    if (open.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
      open.resetConnectBackoff(); // it may have grown to two minutes
    }
    CallOptions options =
        CallOptions.DEFAULT.withDeadlineAfter(Math.max(1, end - System.nanoTime()), TimeUnit.NANOSECONDS);
    ResolveResponse response;
    try {
      response = ClientCalls.blockingUnaryCall(open, RESOLVE, options, request);
    } catch (StatusRuntimeException e) {
      throw BrokerException.of(e, settings.brokers(), tls.describe());
    }
    LOG.debug("Integration {}: {} of {} references resolved, request {}",
        request.getIntegrationId(), response.getConfigsCount(), count, response.getRequestId());
    return answer(request.getIntegrationId(), count, response);
  }

  /** Returns a usable value for every reference, or throws. */
  private static Answer answer(String integration, int count, ResolveResponse response) throws BrokerException {
    List<BrokerException.Fault> faults = new ArrayList<>();
    List<String> values = new ArrayList<>(count);
    Long timeLeft = null;
    int stale = 0;
    for (int i = 0; i < count; i++) {
      String name = "k" + i;
      ResolvedConfig config = response.getConfigsMap().get(name);
      ConfigError error = response.getErrorsMap().get(name);
      String unusable = unusable(config);
      if (error != null) {
        long retry = error.hasRetryDelay() ? BrokerException.millis(error.getRetryDelay()) : -1;
        faults.add(new BrokerException.Fault(i, error.getReason(), error.getMessage(), retry));
      } else if (unusable != null) {
        faults.add(new BrokerException.Fault(i, BrokerException.UNUSABLE_VALUE, unusable, -1));
      } else {
        values.add(config.getValue());
        stale += config.getStale() ? 1 : 0;
        timeLeft = sooner(timeLeft, config);
      }
    }
    if (!faults.isEmpty()) {
      throw new BrokerException(faults, response.getRequestId());
    }
    if (stale > 0) {
      LOG.warn("Integration {}: the broker cannot reach the store, {} of {} values are stale, request {}",
          integration, stale, count, response.getRequestId());
    }
    return new Answer(List.copyOf(values), timeLeft);
  }

  /** Returns why a connector must not use the broker's result, or null if it may. */
  private static String unusable(ResolvedConfig config) {
    if (config == null) {
      return "the broker returned no result for it; its version may be incompatible with this provider";
    }
    if (!config.getValue().isEmpty()) {
      return null;
    }
    return config.getDecodedValue().isEmpty()
        ? "the value is empty; set one in the secret store"
        : "the decoded value is not text, but a connector's configuration must be; leave out ?decode=base64";
  }

  /** Returns the shorter of timeLeft, which may be null, and the time left of config, if it expires. */
  private static Long sooner(Long timeLeft, ResolvedConfig config) {
    if (!config.hasTimeLeft()) {
      return timeLeft;
    }
    Duration left = config.getTimeLeft();
    long ms = left.getSeconds() >= Long.MAX_VALUE / 2000 ? Long.MAX_VALUE / 2 : left.getSeconds() * 1000 + left.getNanos() / 1_000_000;
    if (ms < 1) { // expired in transit; a restart now would return the same value
      return timeLeft;
    }
    return timeLeft == null ? ms : Math.min(timeLeft, ms);
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

  private synchronized ManagedChannel channel() {
    if (channel == null) {
      channel =
          NettyChannelBuilder.forTarget(BrokerAddresses.TARGET)
              .setNameResolverArg(BrokerAddresses.SETTINGS, settings)
              .sslContext(tls)
              .defaultLoadBalancingPolicy("round_robin")
              // A DNS operator must not be able to change the configuration of calls, and only
              // this class retries.
              .disableServiceConfigLookUp()
              .disableRetry()
              .userAgent("secretbroker-kafka-connect/" + Statistics.version())
              .maxInboundMessageSize(MAX_RESPONSE_BYTES)
              .maxInboundMetadataSize(MAX_TRAILER_BYTES)
              .withOption(ChannelOption.CONNECT_TIMEOUT_MILLIS, CONNECT_TIMEOUT_MS)
              // Shorter than the idle timeout of load balancers, and longer than the interval
              // that the broker treats as abuse.
              .keepAliveTime(1, TimeUnit.MINUTES)
              .keepAliveTimeout(10, TimeUnit.SECONDS)
              .keepAliveWithoutCalls(true)
              .build();
    }
    return channel;
  }
}

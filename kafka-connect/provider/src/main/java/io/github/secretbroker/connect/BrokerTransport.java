package io.github.secretbroker.connect;

import io.github.secretbroker.connect.BrokerChannels.Link;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.LoadBalancerRegistry;
import io.grpc.ManagedChannel;
import io.grpc.NameResolverRegistry;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.MetadataUtils;
import io.netty.channel.ChannelOption;
import java.util.concurrent.TimeUnit;

/** Creates the gRPC channels to the brokers. */
final class BrokerTransport {
  /** Enough for hundreds of secrets of the maximum size that a store allows. */
  private static final int MAX_RESPONSE_BYTES = 16 << 20;
  private static final int MAX_TRAILER_BYTES = 64 << 10;
  private static final int CONNECT_TIMEOUT_MS = 2_000;

  static {
    TransportLog.quiet();
    NameResolverRegistry.getDefaultRegistry().register(new BrokerAddresses.Provider());
    LoadBalancerRegistry.getDefaultRegistry().register(new IntegrationBalancer.Provider());
  }

  private BrokerTransport() {}

  /** Returns a new channel, which has not begun to connect. */
  static ManagedChannel build(Settings settings, ReloadingSslContext tls) {
    return NettyChannelBuilder.forTarget(BrokerAddresses.TARGET)
        .setNameResolverArg(BrokerAddresses.SETTINGS, settings)
        .sslContext(tls)
        .defaultLoadBalancingPolicy(settings.byIntegration() ? IntegrationBalancer.POLICY : "round_robin")
        // A DNS operator must not be able to change the configuration of calls, and only
        // BrokerConnection retries.
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

  /** Returns the channel for calls of an integration. */
  static Channel channel(Settings settings, Link link, String integration) {
    return settings.byIntegration()
        ? ClientInterceptors.intercept(link.channel,
            MetadataUtils.newAttachHeadersInterceptor(IntegrationBalancer.headers(integration)))
        : link.channel;
  }
}

package io.github.secretbroker.connect;

import io.github.secretbroker.connect.Settings.Address;
import io.grpc.Attributes;
import io.grpc.EquivalentAddressGroup;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.ProxiedSocketAddress;
import io.grpc.Status;
import io.grpc.StatusOr;
import io.grpc.SynchronizationContext;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.URI;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Executor;

/**
 * Resolves the addresses of all brokers: those of every host in the settings. The certificate of a
 * broker must match its own host. gRPC requests the addresses again when a connection is lost.
 */
final class BrokerAddresses extends NameResolver {
  /** The target of a channel; {@link #SETTINGS} contains the brokers' hosts. */
  static final String TARGET = "secretbroker:///";

  /** The channel's settings. */
  static final Args.Key<Settings> SETTINGS = Args.Key.create("settings");

  private final List<Address> brokers;
  private final String serverName;
  private final Args args;
  private final Executor executor;
  private final SynchronizationContext sync;
  private Listener2 listener;
  private boolean resolving; // within sync
  private boolean stopped; // within sync

  private BrokerAddresses(Settings settings, Args args) {
    this.brokers = settings.addresses();
    this.serverName = settings.serverName();
    this.args = args;
    this.executor = args.getOffloadExecutor();
    this.sync = args.getSynchronizationContext();
  }

  /** Creates resolvers for channels with {@link #TARGET}. */
  static final class Provider extends NameResolverProvider {
    @Override
    public NameResolver newNameResolver(URI target, Args args) {
      return target.getScheme().equals(getDefaultScheme()) ? new BrokerAddresses(args.getArg(SETTINGS), args) : null;
    }

    @Override
    public String getDefaultScheme() {
      return "secretbroker";
    }

    @Override
    protected boolean isAvailable() {
      return true;
    }

    @Override
    protected int priority() {
      return 4; // lower than that of DNS, which remains the default
    }

    @Override
    public Collection<Class<? extends SocketAddress>> getProducedSocketAddressTypes() {
      return Set.of(InetSocketAddress.class);
    }
  }

  @Override
  public String getServiceAuthority() {
    return authority(brokers.get(0));
  }

  private String authority(Address broker) {
    return serverName != null ? serverName : broker.toString();
  }

  @Override
  public void start(Listener2 listener) {
    this.listener = listener;
    resolve();
  }

  @Override
  public void refresh() {
    resolve();
  }

  @Override
  public void shutdown() {
    stopped = true;
  }

  /** Runs within sync, as all calls by gRPC. The DNS lookup may be slow and runs in the executor. */
  private void resolve() {
    if (resolving || stopped) {
      return;
    }
    resolving = true;
    executor.execute(
        () -> {
          StatusOr<List<EquivalentAddressGroup>> found = lookUp();
          sync.execute(
              () -> {
                resolving = false;
                if (!stopped) {
                  listener.onResult2(ResolutionResult.newBuilder().setAddressesOrError(found).build());
                }
              });
        });
  }

  /** Skips hosts that cannot be resolved; fails only if no host can. */
  private StatusOr<List<EquivalentAddressGroup>> lookUp() {
    List<EquivalentAddressGroup> groups = new ArrayList<>();
    List<String> unknown = new ArrayList<>();
    for (Address broker : brokers) {
      Attributes attributes =
          Attributes.newBuilder()
              .set(EquivalentAddressGroup.ATTR_AUTHORITY_OVERRIDE, authority(broker))
              .build();
      try {
        for (SocketAddress address : addressesOf(broker)) {
          groups.add(new EquivalentAddressGroup(address, attributes));
        }
      } catch (UnknownHostException e) {
        unknown.add(broker.host());
      } catch (IOException e) {
        unknown.add(broker.host() + " (behind a proxy)");
      }
    }
    if (groups.isEmpty()) {
      return StatusOr.fromStatus(
          Status.UNAVAILABLE.withDescription("DNS has no address for " + String.join(", ", unknown)));
    }
    return StatusOr.fromValue(groups);
  }

  private List<SocketAddress> addressesOf(Address broker) throws IOException {
    ProxiedSocketAddress proxied =
        args.getProxyDetector().proxyFor(InetSocketAddress.createUnresolved(broker.host(), broker.port()));
    if (proxied != null) { // the proxy resolves the name
      return List.of(proxied);
    }
    List<SocketAddress> addresses = new ArrayList<>();
    for (InetAddress address : InetAddress.getAllByName(broker.host())) {
      addresses.add(new InetSocketAddress(address, broker.port()));
    }
    return addresses;
  }
}

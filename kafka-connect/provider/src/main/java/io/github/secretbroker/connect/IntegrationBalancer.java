package io.github.secretbroker.connect;

import io.grpc.Attributes;
import io.grpc.ConnectivityState;
import io.grpc.EquivalentAddressGroup;
import io.grpc.LoadBalancer;
import io.grpc.LoadBalancerProvider;
import io.grpc.Metadata;
import io.grpc.util.MultiChildLoadBalancer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Sends the calls of one integration to one broker, and to another one while that is unavailable. Only one
 * broker then reads each secret. All workers choose the same broker if they have the same addresses.
 *
 * <p>It uses rendezvous hashing: of the brokers that are connected, a call gets the one whose address has
 * the highest hash with the integration. A broker that leaves changes only the choice of its own
 * integrations. gRPC's own policy for this, ring_hash, is part of grpc-xds, which is much larger than
 * everything else in this jar.
 */
final class IntegrationBalancer extends MultiChildLoadBalancer {
  /** The name of the policy. */
  static final String POLICY = "secretbroker_integration";

  /** The header that contains the integration of a call, also for load balancers. The broker ignores it. */
  static final Metadata.Key<String> INTEGRATION =
      Metadata.Key.of("x-secretbroker-integration", Metadata.ASCII_STRING_MARSHALLER);

  /** Returns the headers of a call. */
  static Metadata headers(String integration) {
    Metadata headers = new Metadata();
    headers.put(INTEGRATION, integration);
    return headers;
  }

  private IntegrationBalancer(Helper helper) {
    super(helper);
  }

  /** Creates balancers for channels with {@link #POLICY}. */
  static final class Provider extends LoadBalancerProvider {
    @Override
    public LoadBalancer newLoadBalancer(Helper helper) {
      return new IntegrationBalancer(helper);
    }

    @Override
    public String getPolicyName() {
      return POLICY;
    }

    @Override
    public boolean isAvailable() {
      return true;
    }

    @Override
    public int getPriority() {
      return 5; // the default
    }
  }

  /** Returns the addresses by the names that are hashed. */
  @Override
  protected Map<Object, ResolvedAddresses> createChildAddressesMap(ResolvedAddresses all) {
    Map<Object, ResolvedAddresses> children = new LinkedHashMap<>();
    for (EquivalentAddressGroup group : all.getAddresses()) {
      children.put(name(group), all.toBuilder()
          .setAddresses(List.of(group))
          .setAttributes(Attributes.newBuilder().set(IS_PETIOLE_POLICY, true).build())
          .setLoadBalancingPolicyConfig(null)
          .build());
    }
    return children;
  }

  private static String name(EquivalentAddressGroup group) {
    return group.getAddresses().get(0) instanceof InetSocketAddress address && !address.isUnresolved()
        ? address.getAddress().getHostAddress() + ":" + address.getPort()
        : group.getAddresses().toString();
  }

  /** Returns a child that connects again at once, as those of round_robin do. */
  @Override
  protected ChildLbState createChildLbState(Object key) {
    return new ChildLbState(key, pickFirstLbProvider) {
      @Override
      protected ChildLbStateHelper createChildHelper() {
        return new ChildLbStateHelper() {
          @Override
          public void updateBalancingState(ConnectivityState state, SubchannelPicker picker) {
            super.updateBalancingState(state, picker);
            if (!resolvingAddresses && state == ConnectivityState.IDLE) {
              getLb().requestConnection();
            }
          }
        };
      }
    };
  }

  @Override
  protected void updateOverallBalancingState() {
    List<ChildLbState> ready = getReadyChildren();
    if (!ready.isEmpty()) {
      getHelper().updateBalancingState(ConnectivityState.READY, new Picker(ready));
      return;
    }
    boolean connecting = getChildLbStates().stream().anyMatch(child ->
        child.getCurrentState() == ConnectivityState.CONNECTING || child.getCurrentState() == ConnectivityState.IDLE);
    if (connecting) {
      getHelper().updateBalancingState(ConnectivityState.CONNECTING, new FixedResultPicker(PickResult.withNoResult()));
    } else { // each child's picker fails the call with its error
      getHelper().updateBalancingState(ConnectivityState.TRANSIENT_FAILURE, new Picker(List.copyOf(getChildLbStates())));
    }
  }

  private static final class Picker extends SubchannelPicker {
    private final List<String> names;
    private final List<SubchannelPicker> pickers;

    Picker(List<ChildLbState> children) {
      names = children.stream().map(child -> (String) child.getKey()).toList();
      pickers = children.stream().map(ChildLbState::getCurrentPicker).toList();
    }

    @Override
    public PickResult pickSubchannel(PickSubchannelArgs args) {
      return pickers.get(choose(args.getHeaders().get(INTEGRATION), names)).pickSubchannel(args);
    }
  }

  /** Returns the index of the broker for an integration. */
  static int choose(String integration, List<String> brokers) {
    int best = 0;
    long highest = Long.MIN_VALUE;
    for (int i = 0; i < brokers.size(); i++) {
      long hash = hash(integration + "\n" + brokers.get(i));
      if (hash >= highest) {
        highest = hash;
        best = i;
      }
    }
    return best;
  }

  /** FNV-1a, and MurmurHash3's finalizer, which spreads the last bytes over all bits. */
  private static long hash(String text) {
    long h = 0xcbf29ce484222325L;
    for (byte b : text.getBytes(StandardCharsets.UTF_8)) {
      h = (h ^ (b & 0xff)) * 0x100000001b3L;
    }
    h = (h ^ (h >>> 33)) * 0xff51afd7ed558ccdL;
    h = (h ^ (h >>> 33)) * 0xc4ceb9fe1a85ec53L;
    return h ^ (h >>> 33);
  }
}

package io.github.secretbroker.connect;

import io.github.secretbroker.v1.ResolveRequest;
import io.github.secretbroker.v1.ResolveResponse;
import io.github.secretbroker.v1.ResolvedConfig;
import io.github.secretbroker.v1.WatchRequest;
import io.github.secretbroker.v1.WatchResponse;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.lite.ProtoLiteUtils;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.ServerCalls;
import io.netty.handler.ssl.ClientAuth;
import io.netty.handler.ssl.SslContextBuilder;
import io.netty.handler.ssl.SslProvider;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.security.cert.X509Certificate;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Function;
import javax.net.ssl.SSLSession;

/**
 * A fake broker for tests that need responses which a real one returns only in rare cases: gRPC over
 * mutual TLS 1.3, with responses that the test supplies. The tests on real workers use the real
 * broker.
 */
final class FakeBroker implements AutoCloseable {
  private static final Context.Key<String> CALLER = Context.key("caller");

  /** All requests, in order. */
  final List<ResolveRequest> requests = new CopyOnWriteArrayList<>();
  /** The callers, by the URI in the client certificate. */
  final List<String> callers = new CopyOnWriteArrayList<>();
  /** The headers for load balancers, "null" if a call has none. */
  final List<String> integrations = new CopyOnWriteArrayList<>();
  /** The connections, by their remote addresses. */
  final List<String> peers = new CopyOnWriteArrayList<>();

  volatile Function<ResolveRequest, ResolveResponse> answer;
  /** Called with each stream that begins. */
  volatile Consumer<Watch> watched = watch -> { };

  private final List<Watch> begun = new CopyOnWriteArrayList<>();
  private final BlockingQueue<Watch> watches = new LinkedBlockingQueue<>();

  private final Server server;

  FakeBroker(TestAuthority authority, TestAuthority.Issued identity, int port) {
    answer = FakeBroker::echo;
    try {
      SslContextBuilder tls =
          SslContextBuilder.forServer(identity.key(), identity.certificate())
              .trustManager(authority.certificate)
              .clientAuth(ClientAuth.REQUIRE)
              .protocols("TLSv1.3");
      server =
          NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", port))
              .sslContext(GrpcSslContexts.configure(tls, SslProvider.JDK).build())
              .permitKeepAliveWithoutCalls(true)
              .intercept(new Identify())
              .addService(service())
              .addService(watchService())
              .build()
              .start();
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }

  int port() {
    return server.getPort();
  }

  /** Answers each reference with "value of" it. */
  static ResolveResponse echo(ResolveRequest request) {
    ResolveResponse.Builder response = ResolveResponse.newBuilder().setRequestId("request-1");
    request.getConfigsMap().forEach((name, reference) ->
        response.putConfigs(name, ResolvedConfig.newBuilder()
            .setValue("value of " + reference).setVersion("v1").build()));
    return response.build();
  }

  private ServerServiceDefinition service() {
    MethodDescriptor<ResolveRequest, ResolveResponse> method =
        MethodDescriptor.<ResolveRequest, ResolveResponse>newBuilder()
            .setType(MethodDescriptor.MethodType.UNARY)
            .setFullMethodName("secretbroker.v1.ResolverService/Resolve")
            .setRequestMarshaller(ProtoLiteUtils.marshaller(ResolveRequest.getDefaultInstance()))
            .setResponseMarshaller(ProtoLiteUtils.marshaller(ResolveResponse.getDefaultInstance()))
            .build();
    return ServerServiceDefinition.builder("secretbroker.v1.ResolverService")
        .addMethod(method, ServerCalls.asyncUnaryCall((request, observer) -> {
          requests.add(request);
          callers.add(CALLER.get());
          try {
            observer.onNext(answer.apply(request));
            observer.onCompleted();
          } catch (StatusRuntimeException e) {
            observer.onError(e);
          }
        }))
        .build();
  }

  /** A stream of WatchService. */
  static final class Watch {
    final WatchRequest request;
    private final ServerCallStreamObserver<WatchResponse> stream;
    private final CountDownLatch cancelled = new CountDownLatch(1);

    private Watch(WatchRequest request, ServerCallStreamObserver<WatchResponse> stream) {
      this.request = request;
      this.stream = stream;
      stream.setOnCancelHandler(cancelled::countDown);
    }

    synchronized void send(WatchResponse response) {
      stream.onNext(response);
    }

    synchronized void complete() {
      stream.onCompleted();
    }

    synchronized void fail(Status status) {
      stream.onError(status.asRuntimeException());
    }

    boolean cancelled() {
      return cancelled.getCount() == 0;
    }

    void awaitCancelled() {
      Bench.await(cancelled);
    }
  }

  /** Returns the number of streams that have begun. */
  int watches() {
    return begun.size();
  }

  /** Returns the stream that has begun last. */
  Watch lastWatch() {
    return begun.get(begun.size() - 1);
  }

  /** Returns the number of streams that the clients have not ended. */
  long openWatches() {
    return begun.stream().filter(watch -> !watch.cancelled()).count();
  }

  /** Waits until the next stream begins. */
  Watch nextWatch() throws InterruptedException {
    Watch watch = watches.poll(30, TimeUnit.SECONDS);
    if (watch == null) {
      throw new IllegalStateException("no stream has begun");
    }
    return watch;
  }

  private ServerServiceDefinition watchService() {
    return ServerServiceDefinition.builder("secretbroker.v1.WatchService")
        .addMethod(Follower.WATCH, ServerCalls.asyncServerStreamingCall((request, observer) -> {
          Watch watch = new Watch(request, (ServerCallStreamObserver<WatchResponse>) observer);
          begun.add(watch);
          watches.add(watch);
          watched.accept(watch);
        }))
        .build();
  }

  @Override
  public void close() {
    server.shutdownNow();
    try {
      if (!server.awaitTermination(10, TimeUnit.SECONDS)) {
        throw new IllegalStateException("the server does not end");
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private final class Identify implements ServerInterceptor {
    @Override
    public <Q, S> ServerCall.Listener<Q> interceptCall(
        ServerCall<Q, S> call, Metadata headers, ServerCallHandler<Q, S> next) {
      String peer = String.valueOf(call.getAttributes().get(Grpc.TRANSPORT_ATTR_REMOTE_ADDR));
      integrations.add(String.valueOf(headers.get(IntegrationBalancer.INTEGRATION)));
      if (!peers.contains(peer)) {
        peers.add(peer);
      }
      return Contexts.interceptCall(
          Context.current().withValue(CALLER, uri(call.getAttributes().get(Grpc.TRANSPORT_ATTR_SSL_SESSION))),
          call, headers, next);
    }
  }

  private static String uri(SSLSession session) {
    try {
      X509Certificate leaf = (X509Certificate) session.getPeerCertificates()[0];
      return String.valueOf(leaf.getSubjectAlternativeNames().iterator().next().get(1));
    } catch (Exception e) {
      throw new IllegalStateException(e);
    }
  }
}

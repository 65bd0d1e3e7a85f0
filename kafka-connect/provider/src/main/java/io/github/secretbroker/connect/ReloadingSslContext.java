package io.github.secretbroker.connect;

import io.github.secretbroker.connect.TlsFiles.Material;
import io.github.secretbroker.connect.TlsFiles.UnusableException;
import io.grpc.netty.GrpcSslContexts;
import io.netty.buffer.ByteBufAllocator;
import io.netty.handler.ssl.ApplicationProtocolNegotiator;
import io.netty.handler.ssl.SslContext;
import io.netty.handler.ssl.SslContextBuilder;
import io.netty.handler.ssl.SslProvider;
import java.util.List;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLSessionContext;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Mutual TLS 1.3 with the files as they are when a connection is made. Each content of the files has
 * a context of its own, and so sessions of its own: one that was agreed on with an old certificate is
 * never resumed after the file has changed.
 *
 * <p>Files that cannot be used never replace what was last good: half of them may have been written.
 * Safe for concurrent use.
 */
final class ReloadingSslContext extends SslContext {
  private static final Logger LOG = LoggerFactory.getLogger(ReloadingSslContext.class);

  private final TlsFiles files;
  private SslContext current;
  private String fingerprint;
  private String problem; // why the files on disk cannot be used, null while they can

  /** Reads the files for the first time, which has to succeed. */
  ReloadingSslContext(TlsFiles files) throws UnusableException {
    this.files = files;
    this.fingerprint = files.fingerprint();
    this.current = build(files.load());
  }

  /** The files that are in use, and the fault of those on disk if they have one. */
  synchronized String describe() {
    String text = "certificate " + files.identity() + ", trusting " + files.trust();
    return problem == null ? text : text + ", as read before the files changed: " + problem;
  }

  private synchronized SslContext current() {
    try {
      String now = files.fingerprint();
      if (!now.equals(fingerprint)) {
        Material material = files.load();
        current = build(material);
        fingerprint = now;
        LOG.info("New TLS files are in use: certificate {} is valid until {}",
            files.identity(), material.chain().get(0).getNotAfter().toInstant());
      }
      problem = null;
    } catch (UnusableException e) {
      if (!e.getMessage().equals(problem)) {
        problem = e.getMessage();
        LOG.warn("Changed TLS files cannot be used, what was read before stays in use: {}", problem);
      }
    }
    return current;
  }

  private SslContext build(Material material) throws UnusableException {
    try {
      SslContextBuilder builder =
          SslContextBuilder.forClient()
              .keyManager(material.key(), material.chain())
              .trustManager(material.roots())
              .protocols("TLSv1.3"); // the broker speaks nothing else
      return GrpcSslContexts.configure(builder, SslProvider.JDK).build();
    } catch (SSLException | IllegalArgumentException e) {
      throw new UnusableException(files.identity(), "cannot be used for TLS together with " + files.trust());
    }
  }

  @Override
  public SSLEngine newEngine(ByteBufAllocator alloc) {
    return current().newEngine(alloc);
  }

  @Override
  public SSLEngine newEngine(ByteBufAllocator alloc, String host, int port) {
    return current().newEngine(alloc, host, port);
  }

  @Override
  public boolean isClient() {
    return true;
  }

  @Override
  public synchronized List<String> cipherSuites() {
    return current.cipherSuites();
  }

  @Override
  @SuppressWarnings("deprecation") // the interface's own
  public synchronized ApplicationProtocolNegotiator applicationProtocolNegotiator() {
    return current.applicationProtocolNegotiator();
  }

  @Override
  public synchronized SSLSessionContext sessionContext() {
    return current.sessionContext();
  }
}

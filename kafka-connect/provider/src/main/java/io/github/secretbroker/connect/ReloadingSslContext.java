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
 * Mutual TLS 1.3 with the content that the files have when a connection is opened. Each new content
 * gets a new context and so a new session cache: a session that was negotiated with an old
 * certificate is never resumed after the file has changed.
 *
 * <p>If the files cannot be used, for example because they are only partly written, the last valid
 * content remains in use. Safe for concurrent use.
 */
final class ReloadingSslContext extends SslContext {
  private static final Logger LOG = LoggerFactory.getLogger(ReloadingSslContext.class);

  private final TlsFiles files;
  private SslContext current;
  private String fingerprint;
  private String problem; // why the files on disk cannot be used; null if they can

  /** Reads the files for the first time, and fails if they cannot be used. */
  ReloadingSslContext(TlsFiles files) throws UnusableException {
    this.files = files;
    this.fingerprint = files.fingerprint();
    this.current = build(files.load());
  }

  /** Describes the files that are in use, and why those on disk cannot be used, if so. */
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
        LOG.warn("Changed TLS files cannot be used, the previous ones remain in use: {}", problem);
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
              .protocols("TLSv1.3"); // the broker supports no other version
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
  @SuppressWarnings("deprecation") // the superclass declares it with this type
  public synchronized ApplicationProtocolNegotiator applicationProtocolNegotiator() {
    return current.applicationProtocolNegotiator();
  }

  @Override
  public synchronized SSLSessionContext sessionContext() {
    return current.sessionContext();
  }
}

package io.github.secretbroker.connect;

import io.grpc.ManagedChannel;
import io.netty.buffer.ByteBuf;
import io.netty.util.internal.logging.InternalLoggerFactory;
import io.netty.util.internal.logging.JdkLoggerFactory;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * Keeps values out of the worker's log: at level DEBUG, gRPC's transport logs the beginning of every
 * frame that comes in, and a worker is easily put to DEBUG as a whole.
 */
final class TransportLog {
  // Held, because java.util.logging forgets the level of a logger that nobody holds.
  private static final Logger NETTY = Logger.getLogger(parent(ByteBuf.class.getPackageName()));
  private static final Logger GRPC = Logger.getLogger(ManagedChannel.class.getPackageName());

  private TransportLog() {}

  /** To be called before anything else of the transport is used. */
  static void quiet() {
    // java.util.logging, which the worker's own configuration does not reach.
    InternalLoggerFactory.setDefaultFactory(JdkLoggerFactory.INSTANCE);
    NETTY.setLevel(Level.WARNING);
    GRPC.setLevel(Level.WARNING);
  }

  private static String parent(String name) {
    return name.substring(0, name.lastIndexOf('.'));
  }
}

package io.github.secretbroker.connect;

import io.grpc.ManagedChannel;
import io.netty.buffer.ByteBuf;
import io.netty.util.internal.logging.InternalLoggerFactory;
import io.netty.util.internal.logging.JdkLoggerFactory;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * Keeps values out of the worker's log. At level DEBUG, gRPC's transport logs the beginning of every
 * received frame, and operators often set this level for the whole worker.
 */
final class TransportLog {
  // Strong references: java.util.logging garbage-collects other loggers together with their level.
  private static final Logger NETTY = Logger.getLogger(parent(ByteBuf.class.getPackageName()));
  private static final Logger GRPC = Logger.getLogger(ManagedChannel.class.getPackageName());

  private TransportLog() {}

  /** Must be called before any other class of the transport is used. */
  static void quiet() {
    // The worker's logging configuration does not apply to java.util.logging.
    InternalLoggerFactory.setDefaultFactory(JdkLoggerFactory.INSTANCE);
    NETTY.setLevel(Level.WARNING);
    GRPC.setLevel(Level.WARNING);
  }

  private static String parent(String name) {
    return name.substring(0, name.lastIndexOf('.'));
  }
}

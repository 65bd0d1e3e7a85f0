package io.github.secretbroker.connect;

import static org.junit.jupiter.api.Assertions.assertFalse;

import io.netty.util.internal.logging.InternalLoggerFactory;
import java.nio.file.Path;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TransportLogTest {
  /** Frames contain values, and the transport logs them at DEBUG. */
  @Test
  void framesAreNotLoggedWhateverTheWorkerIsSetTo(@TempDir Path dir) {
    Logger root = Logger.getLogger("");
    Level before = root.getLevel();
    root.setLevel(Level.ALL);
    try (Bench bench = new Bench(dir)) {
      Bench.get(bench.provider(), Bench.REFERENCE);
      System.gc(); // collects loggers without strong references
      assertFalse(InternalLoggerFactory.getInstance("io.grpc.netty.NettyClientHandler").isDebugEnabled());
      assertFalse(InternalLoggerFactory.getInstance("io.netty.handler.codec.http2.Http2FrameLogger").isDebugEnabled());
    } finally {
      root.setLevel(before);
    }
  }
}

package io.github.secretbroker.connect.worker;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.util.ArrayList;
import java.util.List;

/** A port whose connection attempts get no answer, because the queue of a server is full. */
final class BlackHole implements AutoCloseable {
  private final ServerSocket server;
  private final List<Socket> queue = new ArrayList<>();

  BlackHole(int port) {
    server = listen(port);
    try {
      while (queue.size() < 50) {
        Socket socket = new Socket();
        queue.add(socket);
        socket.connect(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 500);
      }
      throw new IllegalStateException("the queue is not bounded on this system");
    } catch (SocketTimeoutException e) {
      return; // full
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static ServerSocket listen(int port) {
    try {
      return new ServerSocket(port, 1, InetAddress.getLoopbackAddress());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Override
  public void close() {
    try {
      for (Socket socket : queue) {
        socket.close();
      }
      server.close();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

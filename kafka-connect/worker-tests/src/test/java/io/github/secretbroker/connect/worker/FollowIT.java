package io.github.secretbroker.connect.worker;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.secretbroker.connect.SecretBrokerConfigProvider;
import io.github.secretbroker.connect.SecretBrokerJdbcCredentialsProvider;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.extension.ExtendWith;

/** Tests that the real broker tells the jar of changes. The jar runs in the process of the test. */
@ExtendWith(World.Shared.class)
@Order(3)
class FollowIT {
  private static final String REFERENCE = Broker.VAULT + "::connect-follow";

  private final BlockingQueue<String> calls = new LinkedBlockingQueue<>();

  private String nextCall() throws InterruptedException {
    return calls.poll(60, TimeUnit.SECONDS);
  }

  @Test
  void changesReachSubscribersAndLoginsAlsoWhileTheBrokerRestarts(World world) throws Exception {
    Broker broker = world.broker;
    broker.set("connect-follow", "follow-canary-1");
    SecretBrokerConfigProvider provider = new SecretBrokerConfigProvider();
    try (var logins = new SecretBrokerJdbcCredentialsProvider()) {
      provider.configure(broker.params());
      Map<String, String> configs = new HashMap<>(broker.params());
      configs.putAll(Map.of("integration", Broker.INTEGRATION, "username.reference", REFERENCE, "password.reference", REFERENCE));
      logins.configure(configs);
      assertEquals("follow-canary-1", logins.getJdbcCredentials().getPassword());

      provider.subscribe(Broker.INTEGRATION, Set.of(REFERENCE), (path, data) -> calls.add(data.data().get(REFERENCE)));
      assertEquals("follow-canary-1", nextCall());
      Child.await("the stream is in the audit log", Duration.ofSeconds(30), () ->
          broker.audit().lines().anyMatch(l -> l.contains("Watch") && l.contains("connect-follow")));

      long began = System.nanoTime();
      broker.set("connect-follow", "follow-canary-2");
      assertEquals("follow-canary-2", nextCall());
      System.out.println("a new version of the store has reached a subscriber after " + (System.nanoTime() - began) / 1_000_000 + " ms");
      assertEquals("follow-canary-2", logins.getJdbcCredentials().getPassword());

      broker.stop();
      broker.set("connect-follow", "follow-canary-3");
      assertEquals("follow-canary-2", logins.getJdbcCredentials().getPassword(), "the last one, while no broker can be reached");
      broker.start();
      assertEquals("follow-canary-3", nextCall());
      assertEquals("follow-canary-3", logins.getJdbcCredentials().getPassword());
      assertTrue(calls.isEmpty(), "one callback for each change");
    } finally {
      provider.close();
    }
  }
}

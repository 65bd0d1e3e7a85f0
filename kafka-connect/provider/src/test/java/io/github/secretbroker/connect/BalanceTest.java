package io.github.secretbroker.connect;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.secretbroker.v1.ResolveRequest;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.common.config.ConfigException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Tests how calls are distributed over brokers. */
class BalanceTest {
  private static final int INTEGRATIONS = 60;

  @TempDir Path dir;

  private static void call(SecretBrokerConfigProvider provider, String integration) {
    provider.get(integration, Set.of(Bench.REFERENCE));
  }

  /** Calls until all brokers have a connection. */
  private static void settle(SecretBrokerConfigProvider provider, List<FakeBroker> brokers) throws InterruptedException {
    int[] n = new int[1];
    SharedCallsTest.await("all brokers have a connection", () -> {
      call(provider, "settle-" + n[0]++);
      return brokers.stream().noneMatch(broker -> broker.peers.isEmpty());
    });
    brokers.forEach(BalanceTest::clear);
  }

  private static void clear(FakeBroker broker) {
    broker.requests.clear();
    broker.integrations.clear();
  }

  /** Returns the brokers that got calls of an integration, by integration. */
  private static Map<String, Set<Integer>> answered(List<FakeBroker> brokers) {
    Map<String, Set<Integer>> by = new HashMap<>();
    for (int i = 0; i < brokers.size(); i++) {
      assertEquals(brokers.get(i).requests.stream().map(ResolveRequest::getIntegrationId).toList(),
          brokers.get(i).integrations, "the header for load balancers");
      for (ResolveRequest request : brokers.get(i).requests) {
        by.computeIfAbsent(request.getIntegrationId(), id -> new java.util.HashSet<>()).add(i);
      }
      clear(brokers.get(i));
    }
    return by;
  }

  private static void callAll(SecretBrokerConfigProvider provider, int times) {
    for (int i = 0; i < INTEGRATIONS * times; i++) {
      call(provider, "i" + i % INTEGRATIONS);
    }
  }

  @Test
  void oneBrokerAnswersAllCallsOfAnIntegration() throws Exception {
    try (Bench bench = new Bench(dir);
        FakeBroker second = new FakeBroker(bench.authority, bench.server, 0);
        FakeBroker third = new FakeBroker(bench.authority, bench.server, 0)) {
      List<FakeBroker> brokers = List.of(bench.broker, second, third);
      Map<String, String> settings = bench.settings();
      settings.put("addresses", "localhost:" + bench.broker.port() + ",localhost:" + second.port() + ",localhost:" + third.port());
      settings.put("balance", "integration");
      SecretBrokerConfigProvider provider = bench.provider(settings);
      settle(provider, brokers);
      callAll(provider, 3);
      Map<String, Set<Integer>> before = answered(brokers);
      assertEquals(INTEGRATIONS, before.size());
      before.forEach((integration, by) -> assertEquals(1, by.size(), integration + " has " + by));
      third.close();
      callAll(provider, 2);
      Map<String, Set<Integer>> after = answered(brokers);
      before.forEach((integration, by) ->
          assertTrue(by.contains(2) || by.equals(after.get(integration)), integration + " has moved"));
    }
  }

  @Test
  void brokersHaveEqualSharesAndOnlyThoseOfAnEndedOneMove() {
    List<String> brokers = new ArrayList<>(List.of("10.0.0.1:8443", "10.0.0.2:8443", "10.0.0.3:8443"));
    int[] shares = new int[3];
    for (int i = 0; i < 3000; i++) {
      shares[IntegrationBalancer.choose("cspi-" + i, brokers)]++;
    }
    for (int share : shares) {
      assertTrue(share > 850 && share < 1150, "shares " + java.util.Arrays.toString(shares));
    }
    List<String> two = brokers.subList(0, 2);
    for (int i = 0; i < 3000; i++) {
      int before = IntegrationBalancer.choose("cspi-" + i, brokers);
      assertTrue(before == 2 || before == IntegrationBalancer.choose("cspi-" + i, two), "cspi-" + i);
    }
    assertEquals(0, IntegrationBalancer.choose(null, List.of("10.0.0.1:8443")));
  }

  @Test
  void withoutTheSettingEachCallGoesToTheNextBroker() throws Exception {
    try (Bench bench = new Bench(dir); FakeBroker second = new FakeBroker(bench.authority, bench.server, 0)) {
      List<FakeBroker> brokers = List.of(bench.broker, second);
      Map<String, String> settings = bench.settings();
      settings.put("addresses", "localhost:" + bench.broker.port() + ",localhost:" + second.port());
      SecretBrokerConfigProvider provider = bench.provider(settings);
      settle(provider, brokers);
      for (int i = 0; i < 10; i++) {
        call(provider, "cspi");
      }
      assertTrue(bench.broker.requests.size() > 2 && second.requests.size() > 2, "calls go to both");
      assertTrue(bench.broker.integrations.stream().allMatch("null"::equals), "no header");
    }
  }

  @Test
  void otherWaysAreRefused() {
    try (Bench bench = new Bench(dir)) {
      Map<String, String> settings = bench.settings();
      settings.put("balance", "random");
      String text = assertThrows(ConfigException.class, () -> bench.provider(settings)).getMessage();
      assertTrue(text.contains("balance must be round_robin or integration"), text);
    }
  }
}
